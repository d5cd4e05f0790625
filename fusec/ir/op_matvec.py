"""Lookup of a row of weights, and products of a matrix with a vector."""

from __future__ import annotations

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.graph import Node, Value
from fusec.ir.op import INDEX, Op
from fusec.ir.op_checks import Array, Type, activation, elements_of, matrix, want
from fusec.ir.op_fixed import WIDTHS

LANES = 32  # among which a row's columns are dealt, where its sum is made of parts
DECODE = 4  # instructions to make the floats of a quad of a row


def infer_embed(node: Node) -> list[Type]:
    """f32[T, n], a row of the table each."""
    token, table = node.inputs
    want(token.dtype == "i32" and len(token.shape) == 1, "token: i32[T]", token.type)
    return [("f32", (token.shape[0], matrix(table)[1]))]


def embed_bytes(node: Node) -> int:
    """The rows that are looked up, and what they become."""
    table, out = node.inputs[1], node.outputs[0]
    return dtype(table.dtype).nbytes(out.shape) + out.nbytes


def infer_matvec(node: Node) -> list[Type]:
    """f32[T, rows]."""
    x, w = node.inputs[:2]
    tokens, n = activation(x, "x", *WIDTHS)
    rows, columns = matrix(w)
    want(n == columns, f"w: [rows, {n}]", w.type)
    for i, s in enumerate(node.inputs[2:]):
        if i == 0 and s.is_weight:
            want(s.dtype == "f32" and s.shape == (1,), "factor: f32[1]", s.type)
        else:
            want(not s.is_weight and s.type == f"f32[{tokens}, 1]", "inverse: f32[T, 1]", s.type)
    want(sum(not s.is_weight for s in node.inputs[2:]) <= 1, "one inverse", "two")
    return [("f32", (tokens, rows))]


def matvec(x: Array, w: Array, *scales: Array) -> Array:
    """x @ w.T, times a factor of the whole matrix, times a factor of each token, if given."""
    product = x @ w.T
    for scale in scales:
        product = product * scale
    return product


def infer_split_matvec(node: Node) -> list[Type]:
    """f32[T, rows], each the sum of parts over `branch` lanes."""
    branch = int(node["branch"])
    want(0 < branch <= LANES and LANES % branch == 0, f"a branch that divides {LANES}", str(branch))
    return infer_matvec(node)


def split_matvec(x: Array, w: Array, *, branch: int) -> Array:
    """x @ w.T: a row's columns are dealt to lanes, and `branch` of them have a part's."""
    return matvec(x, w)


def infer_head_matvec(node: Node) -> list[Type]:
    """f32[T, rows], head after head."""
    x, w = node.inputs
    tokens, n = activation(x)
    rows, columns = matrix(w)
    heads = int(node["heads"])
    want(heads > 0 and rows % heads == 0, f"w: [{heads} heads of rows, columns]", w.type)
    want(n == heads * columns, f"x: f32[T, {heads} heads of {columns}]", x.type)
    return [("f32", (tokens, rows))]


def head_matvec(x: Array, w: Array, *, heads: int) -> Array:
    """Each head's part of x times that head's rows."""
    parts, matrices = x.reshape(len(x), heads, -1), w.reshape(heads, -1, w.shape[1])
    return np.einsum("thc,hrc->thr", parts, matrices).reshape(len(x), -1)


def heads_of(node: Node) -> int:
    """Into how many parts a product's vector falls, each of which goes with as many rows."""
    return int(node["heads"]) if node.op == "head_matvec" else 1


def is_product(node: Node) -> bool:
    """Whether a node multiplies a whole vector by a matrix, in whatever order its sums are."""
    return node.op in ("matvec", "split_matvec")


def branch_of(node: Node) -> int:
    """Lanes that have the columns of a part, where a row is a sum of parts; 0 where it is none."""
    return int(node["branch"]) if node.op == "split_matvec" else 0


def is_fixed(node: Node) -> bool:
    """Whether a node is a product of a vector in fixed point (see `fusec.ir.op_fixed`)."""
    return bool(node.inputs) and node.inputs[0].dtype in WIDTHS


def row_length(node: Node) -> int:
    """Elements that are multiplied and added for one element of a product."""
    return int(node.inputs[0].shape[-1]) // heads_of(node)


def factor_of(node: Node) -> Value | None:
    """The weight that scales the whole matrix of a matvec, which some formats keep beside it."""
    return next((v for v in node.inputs[2:] if v.is_weight), None)


def inverse_of(node: Node) -> Value | None:
    """The activation that scales a token's product: the second result of `rms_factors`."""
    return next((v for v in node.inputs[2:] if not v.is_weight and v.dtype == "f32"), None)


OPS = (
    Op(
        "embed", "vector", "token: i32[T], table: weight[vocabulary, n]", (2, 2),
        infer_embed, lambda token, table: table[token], lambda n: 0, bytes=embed_bytes,
        indices={0: lambda n: n.inputs[1].shape[0]}, group="embed", loads=1,
        rows_read=lambda n: 1, doc="Row `token` of a table.",
        work_whole=lambda n, threads, _: (INDEX + DECODE)
        * -(-n.outputs[0].shape[-1] // (4 * threads)),
    ),
    Op(
        "matvec", "rows",
        "x: f32[T, n], w: weight[rows, n], factor: f32[1], inverse: f32[T, 1]", (2, 4),
        infer_matvec, matvec, lambda n: 2 * elements_of(n) * n.inputs[1].shape[1],
    ),
    Op(
        "split_matvec", "rows", "x: f32[T, n], w: weight[rows, n]", (2, 2),
        infer_split_matvec, split_matvec, lambda n: 2 * elements_of(n) * n.inputs[1].shape[1],
        {"branch": int}, label="matvec",
    ),
    Op(
        "head_matvec", "rows", "x: f32[T, heads * n], w: weight[heads * rows, n]", (2, 2),
        infer_head_matvec, head_matvec, lambda n: 2 * elements_of(n) * n.inputs[1].shape[1],
        {"heads": int},
    ),
)  # fmt: skip
