"""Rows of a step sorted by the experts that they chose, and products with all of an expert's rows.

A *pair* is a row of the step and one of its slots: pair `row * used + slot` is multiplied with the
expert in that slot. `group` sorts all pairs of a step by expert, so that a thread block can take
several that are multiplied with the same matrix.
"""

from __future__ import annotations

import math

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op import Op
from fusec.ir.op_checks import Array, Type, activation, matrix, want
from fusec.ir.op_experts import experts_read, product_bytes
from fusec.ir.op_fixed import BLOCK, WIDTHS


def infer_group(node: Node) -> list[Type]:
    """i32[T, used], the pairs in order, and i32[1, experts + 1], where each expert's begin."""
    (ids,) = node.inputs
    want(ids.dtype == "i32" and len(ids.shape) == 2, "ids: i32[T, used]", ids.type)
    want(int(node["experts"]) > 0, "at least one expert", node["experts"])
    return [("i32", ids.shape), ("i32", (1, int(node["experts"]) + 1))]


def group(ids: Array, *, experts: int) -> tuple[Array, Array]:
    """The step's pairs, sorted by expert; where each expert's first is, and how many there are."""
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable").astype(np.int32).reshape(ids.shape)
    starts = np.searchsorted(np.sort(flat), np.arange(experts + 1))
    return order, starts.astype(np.int32)[None]


def infer_grouped_matvec(node: Node) -> list[Type]:
    """f32[T, used * rows], slot after slot."""
    x, w, order, starts = node.inputs
    tokens, n = activation(x, "x", *WIDTHS)
    height, columns = matrix(w)
    rows, used = int(node["rows"]), order.shape[-1]
    known = order.dtype == "i32" and order.shape == (tokens, used)
    want(known, f"order: i32[{tokens}, used]", order.type)
    want(rows > 0 and height % rows == 0, f"whole experts of {rows} rows", w.type)
    wanted = f"i32[1, {height // rows + 1}]"
    want(starts.type == wanted, f"starts: {wanted}", starts.type)
    want(
        n in (columns, used * columns), f"x: f32[T, {columns}] or f32[T, {used * columns}]", x.type
    )
    return [("f32", (tokens, used * rows))]


def grouped_matvec(x: Array, w: Array, order: Array, starts: Array, *, rows: int) -> Array:
    """Each pair's expert times the row's vector, or its part of it; slot after slot."""
    tokens, used = order.shape
    parts = np.broadcast_to(x.reshape(tokens, -1, w.shape[1]), (tokens, used, w.shape[1]))
    made = np.empty((tokens * used, rows), x.dtype)
    for expert, stack in enumerate(w.reshape(-1, rows, w.shape[1])):
        pairs = order.reshape(-1)[starts[0, expert] : starts[0, expert + 1]]
        made[pairs] = parts.reshape(tokens * used, -1)[pairs] @ stack.T
    return made.reshape(tokens, -1)


def is_grouped(node: Node) -> bool:
    """Whether a node is a product of rows that are sorted by expert."""
    return node.op == "grouped_matvec"


def experts_of(node: Node) -> int:
    """Among how many experts a grouped product's rows choose."""
    return node.inputs[3].shape[-1] - 1


def used_by(node: Node) -> int:
    """How many each of its rows chooses."""
    return node.inputs[2].shape[-1]


def blocks_of_slot(node: Node) -> int:
    """Blocks of 32 that a slot has of a grouped product's vector; 0 where all slots share it."""
    x, w = node.inputs[:2]
    return 0 if x.shape[-1] == w.shape[1] else w.shape[1] // BLOCK


def _pairs(node: Node) -> int:
    return math.prod(node.inputs[2].shape)


OPS = (
    Op(
        "group", "scalar", "ids: i32[T, used]", (1, 1), infer_group, group, lambda n: 0,
        {"experts": int}, outputs=("", ".starts"), indices={0: lambda n: int(n["experts"])},
        points="places",
    ),
    Op(
        "grouped_matvec", "rows",
        "x: fixed[T, n], w: weight[experts * rows, n], order: i32[T, used], "
        "starts: i32[1, experts + 1]", (4, 4), infer_grouped_matvec, grouped_matvec,
        lambda n: 2 * _pairs(n) * int(n["rows"]) * n.inputs[1].shape[1], {"rows": int},
        bytes=product_bytes, indices={2: _pairs, 3: lambda n: _pairs(n) + 1}, label="grouped",
        rows_read=experts_read,
    ),
)  # fmt: skip
