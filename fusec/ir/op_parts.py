"""Products made as partial sums over columns (split-K), and the sum of those.

The columns of a matrix are dealt to `lanes` in blocks of `block`; `branch` neighbouring lanes have
the columns of one part. All parts added up are the product (`split_matvec`): alone, or beside what
is added to it. No order changes their sum: each counts as a whole number of 2**-30, and whole
numbers are added (docs/numbers.md). So whoever makes parts may as well add them to one vector of
such numbers, `i64[T, n]`, in which an earlier kernel has written zeros (`clear_sums`, `add_into`).

What chosen experts make has an order, and a sum of its own.
"""

from __future__ import annotations

import math

import numpy as np

from fusec.ir.graph import Node, Value, attrs
from fusec.ir.op import INDEX, Op
from fusec.ir.op_checks import Array, Type, activation, matrix, want

MOST = 32  # parts of a sum: as many lanes as a row is dealt to


def parts_of(columns: int, block: int, lanes: int, branch: int) -> int:
    """How many parts a row of so many columns has."""
    return -(-min(lanes, -(-columns // block)) // branch)


def infer_matvec_parts(node: Node) -> list[Type]:
    """f32[T, parts * rows], part after part."""
    x, w = node.inputs
    tokens, n = activation(x)
    rows, columns = matrix(w)
    want(columns == n, f"w: [rows, {n}]", w.type)
    block, lanes, branch = (int(node[key]) for key in ("block", "lanes", "branch"))
    sizes = block > 0 and lanes > 0 and branch > 0 and lanes % branch == 0
    want(sizes, "lanes in whole branches, blocks of at least one", f"{lanes}, {branch}, {block}")
    return [("f32", (tokens, parts_of(columns, block, lanes, branch) * rows))]


def matvec_parts(x: Array, w: Array, *, block: int, lanes: int, branch: int) -> Array:
    """Each part's columns of w times those of x: [T, parts, rows], part after part."""
    part = np.arange(w.shape[1]) // block % lanes // branch
    made = [x[:, part == p] @ w[:, part == p].T for p in range(part.max() + 1)]
    return np.concatenate(made, axis=1)


def infer_add_parts(node: Node) -> list[Type]:
    """f32[T, n], as the residual."""
    parts, residual = node.inputs
    tokens, n = activation(residual, "residual")
    if parts.dtype == "i64":
        want(parts.shape == (tokens, n), f"sums: i64[{tokens}, {n}]", parts.type)
        return [("f32", (tokens, n))]
    whole = parts.dtype == "f32" and parts.shape[:1] == (tokens,) and parts.shape[1] % n == 0
    want(len(parts.shape) == 2 and whole, f"parts: f32[{tokens}, parts * {n}]", parts.type)
    _few(parts.shape[1] // n)
    return [("f32", (tokens, n))]


def _few(count: int) -> None:
    want(count <= MOST, f"at most {MOST} parts, among which one too large is never lost", count)


def add_parts(parts: Array, residual: Array) -> Array:
    """The residual plus the sum of the parts of a product."""
    return residual + parts.reshape(len(residual), -1, residual.shape[1]).sum(1)


def infer_sum_parts(node: Node) -> list[Type]:
    """f32[T, n] of so many parts."""
    _few(int(node["parts"]))
    return infer_sum_experts(node)


def infer_sum_experts(node: Node) -> list[Type]:
    """f32[T, n] of what so many experts made."""
    (parts,) = node.inputs
    if parts.dtype == "i64":
        want(node["parts"] == 1, "one part, of sums", node["parts"])
    tokens, whole = activation(parts, "parts", "i64")
    count = int(node["parts"])
    want(count > 0 and whole % count == 0, f"parts: f32[T, {count} * n]", parts.type)
    return [("f32", (tokens, whole // count))]


def sum_parts(x: Array, *, parts: int) -> Array:
    """The sum of the parts of a product."""
    return np.asarray(x.reshape(len(x), parts, -1).sum(1))


def sum_experts(x: Array, *, parts: int) -> Array:
    """The sum of what chosen experts made, in their order."""
    return sum_parts(x, parts=parts)


def infer_clear_sums(node: Node) -> list[Type]:
    """i64[T, n], for as many tokens as the operand has."""
    n = int(node["n"])
    want(n > 0, "at least one element", n)
    return [("i64", (node.inputs[0].shape[0], n))]


def clear_sums(like: Array, *, n: int) -> Array:
    """Zeros for each token of a vector, of which nothing is read."""
    return np.zeros((len(like), n), like.dtype if like.dtype.kind == "f" else np.float64)


def infer_add_into(node: Node) -> list[Type]:
    """i64[T, n], as the sums."""
    sums, parts = node.inputs
    want(sums.dtype == "i64" and len(sums.shape) == 2, "sums: i64[T, n]", sums.type)
    tokens, n = sums.shape
    whole = parts.dtype == "f32" and parts.shape[:1] == (tokens,) and parts.shape[1] % n == 0
    want(len(parts.shape) == 2 and whole, f"parts: f32[{tokens}, parts * {n}]", parts.type)
    _few(parts.shape[1] // n)
    return [("i64", (tokens, n))]


def add_into(sums: Array, parts: Array) -> Array:
    """Sums, and what each part adds to them: a whole number of 2**-30."""
    return add_parts(parts, sums)


def sum_of(parts: Value, residual: Value | None, total: Value) -> Node:
    """The node that makes the total of parts, and adds what is added to it."""
    if residual is not None:
        return Node("add_parts", (parts, residual), (total,))
    count = parts.shape[-1] // total.shape[-1]
    return Node("sum_parts", (parts,), (total,), attrs(parts=count))


LOADED = 5  # instructions to load, or to add in order, four elements of a part
WHOLE = 42  # to make whole numbers of them and add those, where a warp has some of the elements
NEAREST = 40  # to make floats of four sums there


def _sum_work(node: Node, threads: int, position: int) -> float:
    parts, n = node.inputs[0], node.outputs[0].shape[-1]
    count = 0 if parts.dtype == "i64" else parts.shape[-1] // n
    made = WHOLE * count + NEAREST
    return _sum_in_order(node, threads, position) + made * n / (4 * threads)


def _sum_in_order(node: Node, threads: int, position: int) -> float:
    n = node.outputs[0].shape[-1]
    return (INDEX + LOADED * (node.inputs[0].shape[-1] // n)) * -(-n // (4 * threads))


OPS = (
    Op(
        "matvec_parts", "parts", "x: f32[T, n], w: weight[rows, n]", (2, 2), infer_matvec_parts,
        matvec_parts, lambda n: 2 * math.prod(n.inputs[0].shape) * n.inputs[1].shape[0],
        {"block": int, "lanes": int, "branch": int}, label="parts",
    ),
    Op(
        "add_parts", "vector", "parts: f32[T, parts * n], residual: f32[T, n]", (2, 2),
        infer_add_parts, add_parts, lambda n: math.prod(n.inputs[0].shape), label="sum",
        work_whole=_sum_work, adds_parts=True,
    ),
    Op(
        "sum_parts", "vector", "x: f32[T, parts * n]", (1, 1), infer_sum_parts, sum_parts,
        lambda n: math.prod(n.inputs[0].shape), {"parts": int}, label="sum",
        work_whole=_sum_work, adds_parts=True,
    ),
    Op(
        "clear_sums", "clear", "like: f32[T, m]", (1, 1), infer_clear_sums, clear_sums,
        lambda n: 0, {"n": int}, bytes=lambda n: n.outputs[0].nbytes, label="clear",
    ),
    Op(
        "add_into", "into", "sums: i64[T, n], parts: f32[T, parts * n]", (2, 2), infer_add_into,
        add_into, lambda n: math.prod(n.inputs[1].shape),
        bytes=lambda n: n.inputs[1].nbytes + n.outputs[0].nbytes, label="added", in_place=True,
    ),
    Op(
        "sum_experts", "vector", "x: f32[T, parts * n]", (1, 1), infer_sum_experts, sum_experts,
        lambda n: math.prod(n.inputs[0].shape), {"parts": int}, label="sum",
        work_whole=_sum_in_order, adds_parts=True,
    ),
)  # fmt: skip
