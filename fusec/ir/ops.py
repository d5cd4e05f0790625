"""The op table: for each op its operands, type inference, NumPy reference, work and role.

Shapes: T tokens of one step lead every activation. A weight matrix is [rows, columns] as in GGUF.
The reference functions take and return plain arrays of the interpreter's float type; `pos` and
`token` are int arrays of length T. An entry with a hole fails when this module is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fusec.errors import FusecError
from fusec.ir import op_argmax, op_attention, op_parts
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Attr, Node
from fusec.ir.op_checks import (
    Array,
    Type,
    TypeMismatch,
    activation,
    elements_of,
    matrix,
    per_token,
    types_of,
    want,
)

Role = Literal["element", "pair", "store", "fold", "vector", "rows", "parts", "heads", "scalar"]
"""How an op's result depends on its operands, which decides what may share a kernel: element i on
element i; a pair on the same pair; a store writes element i to state; a fold sums up the elements a
block has; a vector is cheap and made whole; a scalar sums up a whole row; rows: element i on a
whole row and on weight row i; parts: sums over the elements that a few blocks have; heads."""


@dataclass(frozen=True)
class Op:
    """One entry. `attributes` maps each attribute to its default, or to its type if required."""

    name: str
    role: Role
    operands: str  # for messages and the reference page: "x: f32[T, n], w: f32[n]"
    arity: tuple[int, int]
    infer: Callable[[Node], list[Type]]
    reference: Callable[..., Array]
    flops: Callable[[Node], int]
    attributes: dict[str, Attr | type] = field(default_factory=dict)
    bytes: Callable[[Node], int] | None = None  # None: every operand and result once

    def __post_init__(self) -> None:
        for part in (self.operands, self.infer, self.reference, self.flops):
            if not part:
                raise TypeError(f"op table entry '{self.name}' is incomplete")


# --- embed ---------------------------------------------------------------------------------------


def _infer_embed(node: Node) -> list[Type]:
    token, table = node.inputs
    want(token.dtype == "i32" and len(token.shape) == 1, "token: i32[T]", token.type)
    return [("f32", (token.shape[0], matrix(table)[1]))]


def _embed(token: Array, table: Array) -> Array:
    return table[token]


def _embed_bytes(node: Node) -> int:
    table, out = node.inputs[1], node.outputs[0]
    return dtype(table.dtype).nbytes(out.shape) + out.nbytes


# --- rms_norm and matvec -------------------------------------------------------------------------


def _infer_rms_norm(node: Node) -> list[Type]:
    x, w = node.inputs
    tokens, n = activation(x)
    want(w.dtype == "f32" and w.shape == (n,), f"w: f32[{n}]", w.type)
    return [("f32", (tokens, n))]


def _rms_norm(x: Array, w: Array, eps: float) -> Array:
    """Zhang & Sennrich 2019: x / sqrt(mean(x^2) + eps) * w."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps)) * w


def _infer_rms_factors(node: Node) -> list[Type]:
    ((dtype, (tokens, n)),) = _infer_rms_norm(node)
    return [(dtype, (tokens, n + 1))]


def _rms_factors(x: Array, w: Array, eps: float) -> Array:
    """The two factors of an RMS norm: x * w, and behind it 1 / sqrt(mean(x^2) + eps)."""
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return np.concatenate([x * w, inverse], axis=-1)


def is_factored(matvec: Node) -> bool:
    """Whether the vector has a last element that scales the result."""
    return matvec.inputs[0].shape[1] == matvec.inputs[1].shape[1] + 1


def _infer_matvec(node: Node) -> list[Type]:
    x, w, *factor = node.inputs
    tokens, n = activation(x)
    rows, columns = matrix(w)
    want(n in (columns, columns + 1), f"w: [rows, {n}] or [rows, {n - 1}]", w.type)
    for s in factor:
        want(s.is_weight and s.dtype == "f32" and s.shape == (1,), "factor: f32[1]", s.type)
    return [("f32", (tokens, rows))]


def _matvec(x: Array, w: Array, factor: Array | None = None) -> Array:
    """The factor is that of a whole matrix, which some formats keep beside it."""
    columns = w.shape[1]
    product = x[:, :columns] @ w.T
    if factor is not None:
        product = product * factor
    return product * x[:, columns:] if x.shape[1] > columns else product


# --- rope ----------------------------------------------------------------------------------------


def _infer_rope(node: Node) -> list[Type]:
    x, pos = node.inputs[:2]
    tokens, n = activation(x)
    per_token(pos, tokens, "pos")
    head, dims = int(node["head_dim"]), int(node["dims"])
    want(head > 0 and n % head == 0, f"whole heads of {head}", x.type)
    want(dims % 2 == 0 and 0 < dims <= head, f"an even number of rotary dims up to {head}", dims)
    want(node["pairing"] in ("adjacent", "halves"), "pairing adjacent or halves", node["pairing"])
    if len(node.inputs) == 3:
        factors = node.inputs[2]
        want(factors.shape == (dims // 2,), f"factors: f32[{dims // 2}]", factors.type)
    return [("f32", (tokens, n))]


def rope_angles(
    pos: Array, base: float, dims: int, scale: float, factors: Array | None = None
) -> Array:
    """Rotation angles in float64, [T, dims/2]: scale * pos / (base^(2j/dims) * factors[j]).

    Su et al. 2021 (RoFormer); `scale` is linear position scaling, `factors` Llama 3's per-pair
    divisors (`rope_freqs.weight`).
    """
    inverse = float(base) ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    if factors is not None:
        inverse = inverse / np.asarray(factors, np.float64)
    return scale * np.asarray(pos, np.float64)[:, None] * inverse


def _rope(
    x: Array,
    pos: Array,
    factors: Array | None = None,
    *,
    base: float,
    head_dim: int,
    dims: int,
    pairing: str,
    scale: float,
) -> Array:
    angle = rope_angles(pos, base, dims, scale, factors)[:, None, :]
    cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    heads = x.reshape(len(x), -1, head_dim)
    out = heads.copy()
    first, second = (
        (np.s_[..., 0:dims:2], np.s_[..., 1:dims:2])
        if pairing == "adjacent"
        else (np.s_[..., : dims // 2], np.s_[..., dims // 2 : dims])
    )
    out[first] = heads[first] * cos - heads[second] * sin
    out[second] = heads[first] * sin + heads[second] * cos
    return out.reshape(x.shape)


# --- element by element --------------------------------------------------------------------------


def _infer_binary(node: Node) -> list[Type]:
    a, b = node.inputs
    tokens, n = activation(a, "a")
    same = b.dtype == "f32" and b.shape in (a.shape, (n,) if b.is_weight else a.shape)
    want(same, f"b: f32[{tokens}, {n}], or a weight f32[{n}]", b.type)
    return [("f32", a.shape)]


def _infer_unary(node: Node) -> list[Type]:
    return [("f32", activation(node.inputs[0]))]


def _silu(x: Array) -> Array:
    """x * sigmoid(x), Elfwing et al. 2017."""
    with np.errstate(over="ignore"):  # exp(-x) is infinite far below zero, and the result -0
        return x / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    """Tanh form, Hendrycks & Gimpel 2016."""
    cubic = x + x.dtype.type(0.044715) * x**3
    return x.dtype.type(0.5) * x * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * cubic))


def _softcap(x: Array, cap: float) -> Array:
    limit = x.dtype.type(cap)
    return limit * np.tanh(x / limit)


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            "embed", "vector", "token: i32[T], table: [vocabulary, n]", (2, 2),
            _infer_embed, _embed, lambda n: 0, bytes=_embed_bytes,
        ),
        Op(
            "rms_norm", "vector", "x: f32[T, n], w: f32[n]", (2, 2),
            _infer_rms_norm, _rms_norm, lambda n: 4 * elements_of(n), {"eps": float},
        ),
        Op(
            "rms_factors", "vector", "x: f32[T, n], w: f32[n]", (2, 2),
            _infer_rms_factors, _rms_factors, lambda n: 4 * elements_of(n), {"eps": float},
        ),
        Op(
            "matvec", "rows", "x: f32[T, n] or f32[T, n + 1], w: [rows, n], factor: f32[1]",
            (2, 3), _infer_matvec, _matvec, lambda n: 2 * elements_of(n) * n.inputs[1].shape[1],
        ),
        Op(
            "matvec_parts", "parts", "x: f32[T, n], w: [rows, n]", (2, 2),
            op_parts.infer_matvec_parts, op_parts.matvec_parts,
            lambda n: 2 * math.prod(n.inputs[0].shape) * n.inputs[1].shape[0],
            {"block": int, "lanes": int, "branch": int},
        ),
        Op(
            "rope", "pair", "x: f32[T, n], pos: i32[T], factors: f32[dims/2]", (2, 3),
            _infer_rope, _rope, lambda n: 3 * elements_of(n),
            {"base": float, "head_dim": int, "dims": int, "pairing": "adjacent", "scale": 1.0},
        ),
        Op(
            "kv_append", "store", "state: [context, kv_heads, head_dim], x: f32[T, n], pos: i32[T]",
            (3, 3), op_attention.infer_kv_append, op_attention.kv_append, lambda n: 0,
            bytes=lambda n: 2 * n.inputs[1].nbytes,
        ),
        Op(
            "attention", "heads", "q: f32[T, n], k: state, v: state, pos: i32[T]", (4, 4),
            op_attention.infer_attention, op_attention.attention, op_attention.attention_flops,
            {"heads": int, "kv_heads": int, "scale": float}, bytes=op_attention.attention_bytes,
        ),
        Op(
            "attention_spans", "heads", "q: f32[T, n], k: state, v: state, pos: i32[T]", (4, 4),
            op_attention.infer_attention_spans, op_attention.attention_spans,
            op_attention.attention_flops,
            {"heads": int, "kv_heads": int, "scale": float, "span": int, "spans": int},
            bytes=op_attention.attention_bytes,
        ),
        Op(
            "attention_combine", "vector", "partials: f32[T, spans * (n + 2 heads)], pos: i32[T]",
            (2, 2), op_attention.infer_attention_combine, op_attention.attention_combine,
            lambda n: 2 * int(n["spans"]) * elements_of(n),
            {"heads": int, "span": int, "spans": int},
        ),
        Op(
            "attention_project", "heads",
            "q: f32[T, n], k: state, v: state, pos: i32[T], w: [rows, n]", (5, 5),
            op_attention.infer_attention_project, op_attention.attention_project,
            op_attention.attention_project_flops,
            {"heads": int, "kv_heads": int, "scale": float, "span": int, "spans": int},
            bytes=op_attention.attention_bytes,
        ),
        Op(
            "add_parts", "vector", "parts: f32[T, parts * n], residual: f32[T, n]", (2, 2),
            op_parts.infer_add_parts, op_parts.add_parts,
            lambda n: math.prod(n.inputs[0].shape),
        ),
        Op(
            "add", "element", "a: f32[T, n], b: f32[T, n]", (2, 2),
            _infer_binary, np.add, elements_of,
        ),
        Op(
            "mul", "element", "a: f32[T, n], b: f32[T, n]", (2, 2),
            _infer_binary, np.multiply, elements_of,
        ),
        Op(
            "silu", "element", "x: f32[T, n]", (1, 1), _infer_unary, _silu,
            lambda n: 4 * elements_of(n),
        ),
        Op(
            "gelu", "element", "x: f32[T, n]", (1, 1), _infer_unary, _gelu,
            lambda n: 8 * elements_of(n),
        ),
        Op(
            "scale", "element", "x: f32[T, n]", (1, 1), _infer_unary,
            lambda x, factor: x * x.dtype.type(factor), elements_of, {"factor": float},
        ),
        Op(
            "softcap", "element", "x: f32[T, n]", (1, 1), _infer_unary, _softcap,
            lambda n: 6 * elements_of(n), {"cap": float},
        ),
        Op(
            "argmax", "scalar", "x: f32[T, n]", (1, 1), op_argmax.infer_argmax, op_argmax.argmax,
            lambda n: math.prod(n.inputs[0].shape),
        ),
        Op(
            "argmax_parts", "fold", "x: f32[T, n]", (1, 1), op_argmax.infer_argmax_parts,
            op_argmax.argmax_parts, lambda n: math.prod(n.inputs[0].shape), {"parts": int},
        ),
        Op(
            "argmax_combine", "scalar", "pairs: f32[T, 2 parts]", (1, 1),
            op_argmax.infer_argmax_combine, op_argmax.argmax_combine,
            lambda n: math.prod(n.inputs[0].shape) // 2,
        ),
    )
}  # fmt: skip


def op(name: str) -> Op:
    """The entry of that name."""
    try:
        return OPS[name]
    except KeyError:
        raise FusecError(f"unknown op '{name}': known are {', '.join(sorted(OPS))}") from None


def infer(node: Node) -> list[Type]:
    """Types of a plain node's outputs; checks operands and attributes. Raises FusecError."""
    entry = op(node.op)
    low, high = entry.arity
    try:
        want(low <= len(node.inputs) <= high, f"operands ({entry.operands})", types_of(node))
        given = dict(node.attrs)
        want(
            set(given) == set(entry.attributes),
            f"attributes {sorted(entry.attributes)}",
            sorted(given),
        )
        for key, kind in entry.attributes.items():
            wanted = kind if isinstance(kind, type) else type(kind)
            want(type(given[key]) is wanted, f"{key} to be {wanted.__name__}", repr(given[key]))
        return entry.infer(node)
    except TypeMismatch as error:
        raise FusecError(f"{node.op} making {node.name}: {error}") from None


def bytes_moved(node: Node) -> int:
    """Bytes a node reads and writes when it runs alone; a fused one keeps its inside to itself."""
    if node.op == "fused":
        inner = {v.name for n in node.body for v in n.outputs} - {v.name for v in node.outputs}
        return sum(
            _plain_bytes(n) - sum(v.nbytes for v in (*n.inputs, *n.outputs) if v.name in inner)
            for n in node.body
        )
    return _plain_bytes(node)


def _plain_bytes(node: Node) -> int:
    entry = op(node.op)
    if entry.bytes is not None:
        return entry.bytes(node)
    return sum(v.nbytes for v in (*node.inputs, *node.outputs))


def flops(node: Node) -> int:
    """Floating-point operations, a fused node's body summed."""
    return sum(op(n.op).flops(n) for n in node.ops)
