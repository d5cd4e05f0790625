"""The index of a row's largest element, of the whole row at once or of the best of several parts.

Ties go to the lowest index.
"""

from __future__ import annotations

import math

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op import Op
from fusec.ir.op_checks import Array, Type, activation, want


def infer_argmax(node: Node) -> list[Type]:
    """i32[T]."""
    return [("i32", (activation(node.inputs[0])[0],))]


def argmax(x: Array) -> Array:
    """The index of each row's largest element."""
    return np.argmax(x, axis=-1).astype(np.int32)


def infer_argmax_parts(node: Node) -> list[Type]:
    """The best of each part, and where it is."""
    tokens, _ = activation(node.inputs[0])
    parts = int(node["parts"])
    want(parts > 0, "at least one part", parts)
    return [("f32", (tokens, parts)), ("i32", (tokens, parts))]


def argmax_parts(x: Array, *, parts: int) -> tuple[Array, Array]:
    """The largest element of each part of a row, and its index.

    Together the parts have every element. Which part has which is up to who computes this, and two
    may have the same. A part of nothing, or of -inf, has -inf at 0.
    """
    tokens, n = x.shape
    size = -(-n // parts)
    padded = np.full((tokens, parts * size), -np.inf, x.dtype)
    padded[:, :n] = x
    index = padded.reshape(tokens, parts, size).argmax(-1) + size * np.arange(parts)
    best = np.take_along_axis(padded, index, axis=1)
    index[best == -np.inf] = 0
    return best, index.astype(np.int32)


def infer_argmax_combine(node: Node) -> list[Type]:
    """i32[T], as the argmax itself."""
    best, places = node.inputs
    tokens, parts = activation(best, "best")
    want(parts > 0, "at least one part", best.type)
    want(places.type == f"i32[{tokens}, {parts}]", f"places: i32[{tokens}, {parts}]", places.type)
    return [("i32", (tokens,))]


def argmax_combine(best: Array, places: Array) -> Array:
    """The index that the parts of `argmax_parts` come to."""
    order = np.lexsort((-places, best), axis=-1)
    return np.take_along_axis(places, order[:, -1:], axis=-1)[:, 0].astype(np.int32)


def _elements_read(node: Node) -> int:
    return math.prod(node.inputs[0].shape)


OPS = (
    Op(
        "argmax", "scalar", "x: f32[T, n]", (1, 1), infer_argmax, argmax, _elements_read,
        group="sample", points="into row",
    ),
    Op(
        "argmax_parts", "fold", "x: f32[T, n]", (1, 1), infer_argmax_parts, argmax_parts,
        _elements_read, {"parts": int}, outputs=("", ".places"), label="argmax", group="sample",
        points="into row",
    ),
    Op(
        "argmax_combine", "scalar", "best: f32[T, parts], places: i32[T, parts]", (2, 2),
        infer_argmax_combine, argmax_combine, _elements_read, indices={1: None}, label="best",
        group="sample", points="as operand",
    ),
)  # fmt: skip
