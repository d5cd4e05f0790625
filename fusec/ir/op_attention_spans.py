"""Attention in parts: by spans of the context, combined, and multiplied head by head.

What attention may have besides (`op_attention`) they have too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op import Op, bound_by_positions
from fusec.ir.op_attention import (
    ATTENTION,
    CACHE,
    OF_VALUES,
    SINKS,
    attention,
    attention_bytes,
    attention_flops,
    capped,
    check_sinks,
    first_seen,
    infer_attention,
    positions_seen,
    products_of,
)
from fusec.ir.op_checks import Array, Type, activation, elements_of, matrix, per_token, want

# --- attention split over the context ------------------------------------------------------------


def infer_attention_spans(node: Node) -> list[Type]:
    """Values, and (top, sum of weights) of each head, for every span."""
    ((_, (tokens, n)),) = infer_attention(node)
    heads, span, spans = (int(node[key]) for key in ("heads", "span", "spans"))
    positions = positions_seen(node)
    want(span > 0 and spans >= 0, "spans of at least one position", f"{spans} of {span}")
    enough = spans >= spans_seen(node.inputs[1].shape[0], int(node["window"]), span)
    want(enough, f"spans that hold {positions} positions", spans)
    return [("f32", (tokens, spans * n)), ("f32", (tokens, spans * 2 * heads))]


def spans_seen(rows: int, window: int, span: int) -> int:
    """Spans in which the positions lie that one token sees, of a cache with so many rows."""
    every = -(-rows // span)
    return min(every, (window + span - 2) // span + 1) if window else every


def attention_spans(
    q: Array,
    k: Array,
    v: Array,
    pos: Array,
    *p: Array,
    heads: int,
    kv_heads: int,
    scale: float,
    span: int,
    spans: int,
    window: int = 0,
    cap: float = 0.0,
) -> tuple[Array, Array]:
    """Attention over each `span` positions, not divided by the sum of weights yet.

    The first result is [spans, heads * head_dim] sums of weighted values, the second
    [spans, heads, 2] exponents and sums of weights: a weight is exp(score) / 2**exponent, with the
    exponent of the span's largest score to the base of 2, rounded. A span behind the position is
    zeros. With a window, the spans begin with that of the first position that is seen.
    """
    values = np.zeros((len(q), spans, heads, v.shape[-1]), q.dtype)
    sums = np.zeros((len(q), spans, heads, 2), q.dtype)
    for t, last in enumerate(pos):
        first = first_seen(last, window)
        for s, begin in enumerate(range(first // span * span, last + 1, span)):
            part = slice(max(begin, first), min(begin + span, last + 1))
            products = products_of(t, q, k[part], v[part], p, heads)
            scores = capped(products.reshape(heads, -1), scale, cap)
            rows = np.repeat(v[part], heads // kv_heads, axis=1)
            top = np.rint(scores.max(-1) / q.dtype.type(math.log(2)))
            weights = np.exp(scores - top[:, None] * q.dtype.type(math.log(2)))
            values[t, s] = np.einsum("hp,phd->hd", weights, rows)
            sums[t, s] = np.stack([top, weights.sum(-1)], axis=-1)
    return values.reshape(len(q), -1), sums.reshape(len(q), -1)


def infer_attention_combine(node: Node) -> list[Type]:
    """f32[T, n], as the attention itself."""
    values, sums, pos = node.inputs[:3]
    tokens, n = activation(values, "values")
    heads, span, spans = (int(node[key]) for key in ("heads", "span", "spans"))
    sizes = f"{heads} heads, {spans} spans of {span}"
    want(min(heads, span, spans) > 0, "at least one head, span and position", sizes)
    want(n % (spans * heads) == 0, f"{spans} spans of {heads} heads", values.type)
    pairs = f"f32[{tokens}, {2 * spans * heads}]"
    want(sums.type == pairs, f"sums: {pairs}", sums.type)
    per_token(pos, tokens, "pos")
    if len(node.inputs) > 3:
        check_sinks(node.inputs[3], heads)
    return [("f32", (tokens, n // spans))]


def attention_combine(
    values: Array,
    sums: Array,
    pos: Array,
    sinks: Array | None = None,
    *,
    heads: int,
    span: int,
    spans: int,
    window: int = 0,
) -> Array:
    """The attention that the partial results of `attention_spans` add up to."""
    tokens = len(values)
    sums = sums.reshape(tokens, spans, heads, 2)
    values = values.reshape(tokens, spans, heads, -1)
    out = np.empty_like(values[:, 0])
    for t, last in enumerate(pos):
        live = slice(last // span - first_seen(last, window) // span + 1)
        top, total = sums[t, live, :, 0], sums[t, live, :, 1]
        most = top.max(0)
        weights = np.exp2(top - most)
        whole = (weights * total).sum(0)
        if sinks is not None:
            whole += np.exp(sinks - most * whole.dtype.type(math.log(2)))
        out[t] = np.einsum("sh,shd->hd", weights, values[t, live]) / whole[:, None]
    return out.reshape(tokens, -1)


def _bound_by_spans(node: Node) -> int | None:
    """Without a window the spans there are to combine bound the position."""
    return None if node["window"] else int(node["span"]) * int(node["spans"])


# --- attention and its output projection, head by head -------------------------------------------


def infer_attention_project(node: Node) -> list[Type]:
    """As many parts of the projection as there are heads."""
    infer_attention_spans(replace(node, inputs=(*node.inputs[:4], *node.inputs[5:])))
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
    sinks: Array | None = None,
    *,
    heads: int,
    kv_heads: int,
    span: int,
    spans: int,
    **given: Any,
) -> Array:
    """Each head's attention times its columns of w: [T, heads, rows], head after head.

    The sum over the heads is w @ attention, because a product is linear in its vector.
    """
    more = () if sinks is None else (sinks,)
    a = attention(q, k, v, pos, *more, heads=heads, kv_heads=kv_heads, **given)
    columns = w.reshape(len(w), heads, -1)
    parts = np.einsum("thd,rhd->thr", a.reshape(len(q), heads, -1), columns)
    return parts.reshape(len(q), -1)


def attention_project_flops(node: Node) -> int:
    """Attention to all that is seen, then every weight once."""
    q, weight = node.inputs[0], node.inputs[4]
    attended = 4 * positions_seen(node) * math.prod(q.shape)
    return attended + 2 * q.shape[0] * math.prod(weight.shape)


COMBINE, COMBINE_TURN = 60, 250  # instructions to combine one span, and each four more


def _combine_work(node: Node, threads: int, position: int) -> float:
    span = int(node["span"])
    more = -(-(position // span - first_seen(position, int(node["window"])) // span) // 4)
    quads = -(-node.outputs[0].shape[-1] // (4 * threads))
    return (COMBINE + COMBINE_TURN * more) * quads


_SPANS = ATTENTION | {"span": int, "spans": int}

OPS = (
    Op(
        "attention_spans", "heads", f"{CACHE}, {OF_VALUES}", (4, 5), infer_attention_spans,
        attention_spans,
        attention_flops, _SPANS, bytes=attention_bytes, outputs=("", ".sums"),
        indices={3: bound_by_positions},
    ),
    Op(
        "attention_combine", "vector",
        f"values: f32[T, spans * n], sums: f32[T, spans * 2 heads], pos: i32[T], {SINKS}", (3, 4),
        infer_attention_combine, attention_combine,
        lambda n: 2 * int(n["spans"]) * elements_of(n),
        {"heads": int, "span": int, "spans": int, "window": 0},
        indices={2: _bound_by_spans}, label="combine", work_whole=_combine_work,
    ),
    Op(
        "attention_project", "heads", f"{CACHE}, w: weight[rows, n], {SINKS}", (5, 6),
        infer_attention_project, attention_project, attention_project_flops, _SPANS,
        bytes=attention_bytes, indices={3: bound_by_positions},
    ),
)  # fmt: skip
