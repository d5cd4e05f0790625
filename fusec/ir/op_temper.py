"""Attention temperature: queries grow with the logarithm of the position (Llama 4, Mistral 3)."""

from __future__ import annotations

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op import Lookup, Op, bound_by_positions
from fusec.ir.op_checks import Array, Type, activation, elements_of, per_token, want


def infer_temper(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    x, pos = node.inputs
    tokens, n = activation(x)
    per_token(pos, tokens, "pos")
    length, offset = int(node["length"]), int(node["offset"])
    want(length > 0 and offset >= 0, "a length above 0 and an offset", f"{length} and {offset}")
    return [("f32", (tokens, n))]


def temperatures(pos: Array, slope: float, length: int, offset: int) -> Array:
    """The factors, in float64: 1 + slope * ln(1 + floor((pos + offset) / length))."""
    steps = (np.asarray(pos, np.int64) + offset) // length
    return np.asarray(1 + slope * np.log1p(steps), np.float64)


def temper(x: Array, pos: Array, *, slope: float, length: int, offset: int) -> Array:
    """x times its position's factor."""
    return x * temperatures(pos, slope, length, offset)[:, None].astype(x.dtype)


OPS = (
    Op(
        "temper", "element", "x: f32[T, n], pos: i32[T]", (2, 2), infer_temper, temper,
        elements_of, {"slope": float, "length": int, "offset": 0},
        expression=lambda n, x: f"{x[0]} * {x[1]}", indices={1: bound_by_positions}, loads=1,
        lookup=lambda n: Lookup("temperature", n.attrs),
    ),
)  # fmt: skip
