"""The ops around the KV cache: append, attention, and attention by spans of the context."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op import Op, bound_by_positions
from fusec.ir.op_checks import Array, Type, activation, elements_of, matrix, per_token, want


def infer_kv_append(node: Node) -> list[Type]:
    """The state, appended to."""
    state, x, pos = node.inputs
    want(
        state.is_state and len(state.shape) == 3, "state: [context, kv_heads, head_dim]", state.type
    )
    tokens, n = activation(x)
    want(n == math.prod(state.shape[1:]), f"x: f32[T, {math.prod(state.shape[1:])}]", x.type)
    per_token(pos, tokens, "pos")
    return [(state.dtype, state.shape)]


def kv_append(state: Array, x: Array, pos: Array) -> Array:
    """Rows `pos` of a copy of the state become x."""
    out = state.copy()
    out[pos] = x.reshape(len(x), *state.shape[1:])
    return out


def infer_attention(node: Node) -> list[Type]:
    """f32[T, n], as the query."""
    q, k, v, pos = node.inputs
    tokens, n = activation(q, "q")
    heads, kv_heads = int(node["heads"]), int(node["kv_heads"])
    want(min(heads, kv_heads) > 0, "heads and kv_heads of at least 1", f"{heads} and {kv_heads}")
    want(heads % kv_heads == 0, "heads a multiple of kv_heads", f"{heads} and {kv_heads}")
    wanted = (kv_heads, n // heads)
    for cache in (k, v):
        want(
            cache.is_state and cache.shape[1:] == wanted,
            f"state [context, {wanted[0]}, {wanted[1]}]",
            cache.type,
        )
    want(n % heads == 0, f"q: f32[T, {heads} heads]", q.type)
    per_token(pos, tokens, "pos")
    return [("f32", (tokens, n))]


def attention(
    q: Array, k: Array, v: Array, pos: Array, *, heads: int, kv_heads: int, scale: float
) -> Array:
    """Causal grouped-query attention (Ainslie et al. 2023): token t sees positions 0..pos[t]."""
    head_dim = q.shape[1] // heads
    out = np.empty_like(q).reshape(len(q), heads, head_dim)
    grouped = q.reshape(len(q), kv_heads, heads // kv_heads, head_dim)
    for t, last in enumerate(pos):
        keys, values = k[: last + 1], v[: last + 1]
        scores = np.einsum("hgd,phd->hgp", grouped[t], keys) * q.dtype.type(scale)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[t] = np.einsum("hgp,phd->hgd", weights, values).reshape(heads, head_dim)
    return out.reshape(q.shape)


def attention_bytes(node: Node) -> int:
    """Both caches whole: the most one step can read."""
    return sum(v.nbytes for v in (*node.inputs, *node.outputs))


def attention_flops(node: Node) -> int:
    """Of the whole context: what a step costs at the end of it."""
    context = node.inputs[1].shape[0]
    return 4 * context * elements_of(node)


# --- attention split over the context ------------------------------------------------------------


def infer_attention_spans(node: Node) -> list[Type]:
    """Values, and (top, sum of weights) of each head, for every span."""
    ((_, (tokens, n)),) = infer_attention(node)
    heads, span, spans = (int(node[key]) for key in ("heads", "span", "spans"))
    context = node.inputs[1].shape[0]
    want(span > 0 and spans * span >= context, f"spans that hold {context} positions", spans)
    return [("f32", (tokens, spans * n)), ("f32", (tokens, spans * 2 * heads))]


def attention_spans(
    q: Array,
    k: Array,
    v: Array,
    pos: Array,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    span: int,
    spans: int,
) -> tuple[Array, Array]:
    """Attention over each `span` positions, not divided by the sum of weights yet.

    The first result is [spans, heads * head_dim] sums of weighted values, the second
    [spans, heads, 2] exponents and sums of weights: a weight is exp(score) / 2**exponent, with the
    exponent of the span's largest score to the base of 2, rounded. A span behind the position is
    zeros.
    """
    head_dim = q.shape[1] // heads
    values = np.zeros((len(q), spans, heads, head_dim), q.dtype)
    sums = np.zeros((len(q), spans, heads, 2), q.dtype)
    query = q.reshape(len(q), heads, head_dim)
    for t, last in enumerate(pos):
        for s in range(last // span + 1):
            part = slice(s * span, min((s + 1) * span, last + 1))
            keys, rows = (np.repeat(x[part], heads // kv_heads, axis=1) for x in (k, v))
            scores = np.einsum("hd,phd->hp", query[t], keys) * q.dtype.type(scale)
            top = np.rint(scores.max(-1) / q.dtype.type(math.log(2)))
            weights = np.exp(scores - top[:, None] * q.dtype.type(math.log(2)))
            values[t, s] = np.einsum("hp,phd->hd", weights, rows)
            sums[t, s] = np.stack([top, weights.sum(-1)], axis=-1)
    return values.reshape(len(q), -1), sums.reshape(len(q), -1)


def infer_attention_combine(node: Node) -> list[Type]:
    """f32[T, n], as the attention itself."""
    values, sums, pos = node.inputs
    tokens, n = activation(values, "values")
    heads, span, spans = (int(node[key]) for key in ("heads", "span", "spans"))
    sizes = f"{heads} heads, {spans} spans of {span}"
    want(min(heads, span, spans) > 0, "at least one head, span and position", sizes)
    want(n % (spans * heads) == 0, f"{spans} spans of {heads} heads", values.type)
    pairs = f"f32[{tokens}, {2 * spans * heads}]"
    want(sums.type == pairs, f"sums: {pairs}", sums.type)
    per_token(pos, tokens, "pos")
    return [("f32", (tokens, n // spans))]


def attention_combine(
    values: Array, sums: Array, pos: Array, *, heads: int, span: int, spans: int
) -> Array:
    """The attention that the partial results of `attention_spans` add up to."""
    tokens = len(values)
    sums = sums.reshape(tokens, spans, heads, 2)
    values = values.reshape(tokens, spans, heads, -1)
    out = np.empty_like(values[:, 0])
    for t, last in enumerate(pos):
        live = slice(last // span + 1)
        top, total = sums[t, live, :, 0], sums[t, live, :, 1]
        weights = np.exp2(top - top.max(0))
        out[t] = np.einsum("sh,shd->hd", weights, values[t, live])
        out[t] /= (weights * total).sum(0)[:, None]
    return out.reshape(tokens, -1)


# --- attention and its output projection, head by head -------------------------------------------


def infer_attention_project(node: Node) -> list[Type]:
    """As many parts of the projection as there are heads."""
    infer_attention_spans(replace(node, inputs=node.inputs[:4]))
    tokens, n = activation(node.inputs[0], "q")
    rows, columns = matrix(node.inputs[4])
    want(columns == n, f"w: [rows, {n}]", node.inputs[4].type)
    return [("f32", (tokens, int(node["heads"]) * rows))]


def attention_project(
    q: Array,
    k: Array,
    v: Array,
    pos: Array,
    w: Array,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    span: int,
    spans: int,
) -> Array:
    """Each head's attention times its columns of w: [T, heads, rows], head after head.

    The sum over the heads is w @ attention, because a product is linear in its vector.
    """
    a = attention(q, k, v, pos, heads=heads, kv_heads=kv_heads, scale=scale)
    columns = w.reshape(len(w), heads, -1)
    parts = np.einsum("thd,rhd->thr", a.reshape(len(q), heads, -1), columns)
    return parts.reshape(len(q), -1)


def attention_project_flops(node: Node) -> int:
    """Attention to the whole context, then every weight once."""
    context, tokens = node.inputs[1].shape[0], node.inputs[0].shape[0]
    return 4 * context * math.prod(node.inputs[0].shape) + 2 * tokens * math.prod(
        node.inputs[4].shape
    )


COMBINE, COMBINE_TURN = 60, 250  # instructions to combine one span, and each four more


def _combine_work(node: Node, threads: int, position: int) -> float:
    more = -(-(position // int(node["span"])) // 4)
    quads = -(-node.outputs[0].shape[-1] // (4 * threads))
    return (COMBINE + COMBINE_TURN * more) * quads


_CACHE = "q: f32[T, n], k: state, v: state, pos: i32[T]"
_SPANS = {"heads": int, "kv_heads": int, "scale": float, "span": int, "spans": int}

OPS = (
    Op(
        "kv_append", "store",
        "state: state[context, kv_heads, head_dim], x: f32[T, n], pos: i32[T]",
        (3, 3), infer_kv_append, kv_append, lambda n: 0, bytes=lambda n: 2 * n.inputs[1].nbytes,
        indices={2: bound_by_positions}, label="kv", work=10, loads=1,
    ),
    Op(
        "attention", "heads", _CACHE, (4, 4), infer_attention, attention, attention_flops,
        {"heads": int, "kv_heads": int, "scale": float}, bytes=attention_bytes,
        indices={3: bound_by_positions},
    ),
    Op(
        "attention_spans", "heads", _CACHE, (4, 4), infer_attention_spans, attention_spans,
        attention_flops, _SPANS, bytes=attention_bytes, outputs=("", ".sums"),
        indices={3: bound_by_positions},
    ),
    Op(
        "attention_combine", "vector",
        "values: f32[T, spans * n], sums: f32[T, spans * 2 heads], pos: i32[T]", (3, 3),
        infer_attention_combine, attention_combine,
        lambda n: 2 * int(n["spans"]) * elements_of(n),
        {"heads": int, "span": int, "spans": int},
        indices={2: lambda n: int(n["span"]) * int(n["spans"])}, label="combine",
        work_whole=_combine_work,
    ),
    Op(
        "attention_project", "heads", f"{_CACHE}, w: weight[rows, n]", (5, 5),
        infer_attention_project, attention_project, attention_project_flops, _SPANS,
        bytes=attention_bytes, indices={3: bound_by_positions},
    ),
)  # fmt: skip
