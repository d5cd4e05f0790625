"""Checks that ops' type rules are made of; each names what it expected and what it found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Node, Value

Array = np.ndarray[Any, Any]
Type = tuple[str, tuple[int, ...]]


class TypeMismatch(FusecError):
    """Operands that an op cannot take; the message says what it wanted."""


def want(condition: bool, wanted: str, found: object) -> None:
    """Raise TypeMismatch unless the condition holds."""
    if not condition:
        raise TypeMismatch(f"expected {wanted}, found {found}")


def types_of(node: Node) -> str:
    """The operands' types, for messages."""
    return f"({', '.join(v.type for v in node.inputs)})"


def activation(value: Value, what: str = "x", *others: str) -> tuple[int, int]:
    """T and n of an activation, of f32 or of one of the `others`."""
    known = value.dtype == "f32" or value.dtype in others
    want(known and len(value.shape) == 2, f"{what}: f32[T, n]", value.type)
    return value.shape[0], value.shape[1]


def per_token(value: Value, tokens: int, what: str) -> None:
    """Check for one integer a token."""
    want(value.dtype == "i32" and value.shape == (tokens,), f"{what}: i32[{tokens}]", value.type)


def matrix(value: Value) -> tuple[int, int]:
    """Rows and columns of a weight matrix whose rows are whole blocks."""
    want(len(value.shape) == 2, "a weight matrix [rows, columns]", value.type)
    block = dtype(value.dtype).block
    want(value.shape[1] % block == 0, f"rows of whole {value.dtype} blocks of {block}", value.type)
    return value.shape[0], value.shape[1]


def elements_of(node: Node) -> int:
    """Elements of a node's result."""
    return math.prod(node.outputs[0].shape)
