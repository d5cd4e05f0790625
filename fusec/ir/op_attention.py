"""The ops around the KV cache: append, and attention. `op_attention_spans` has it in parts.

What attention may have besides, each 0 (or left out) where there is none:

- `window`: a token sees so many positions, its own among them (Mistral, Gemma 2).
- `cap`: scores are cap * tanh(score / cap) (Gemma 2).
- `sinks`, an operand: a logit of each head that takes part in the softmax and has no value
  (gpt-oss; Xiao et al. 2023, "Efficient streaming language models with attention sinks").
- `p`, an operand: a second query, of the values: a score is q . k + p . v. Where keys and values
  are made of one small vector a position (multi-head latent attention, DeepSeek-V2), that vector is
  what is cached, and each head's matrices are taken into its query and out of its result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from fusec.ir.graph import Attr, Node, Value
from fusec.ir.op import Op, bound_by_positions
from fusec.ir.op_checks import Array, Type, activation, per_token, want
from fusec.ir.op_elementwise import softcap


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
    """f32[T, n], as the query, or as that of the values."""
    q, k, v, pos = node.inputs[:4]
    tokens, n = activation(q, "q")
    heads, kv_heads = int(node["heads"]), int(node["kv_heads"])
    want(min(heads, kv_heads) > 0, "heads and kv_heads of at least 1", f"{heads} and {kv_heads}")
    want(heads % kv_heads == 0, "heads a multiple of kv_heads", f"{heads} and {kv_heads}")
    of_values = query_of_values(node) or q
    for cache, query in ((k, q), (v, of_values)):
        wanted = (kv_heads, activation(query)[1] // heads)
        want(
            cache.is_state and cache.shape[1:] == wanted,
            f"state [context, {wanted[0]}, {wanted[1]}]",
            cache.type,
        )
    want(n % heads == 0, f"q: f32[T, {heads} heads]", q.type)
    whole = of_values.shape[0] == tokens and of_values.shape[1] % heads == 0
    want(whole, f"p: f32[{tokens}, {heads} heads]", of_values.type)
    per_token(pos, tokens, "pos")
    window, cap = int(node["window"]), float(node["cap"])
    want(window >= 0, "a window of at least 0 positions", window)
    want(math.isfinite(cap) and cap >= 0, "a cap of at least 0", cap)
    for value in node.inputs[4:]:
        if value.is_weight:
            check_sinks(value, heads)
    want(len({v.is_weight for v in node.inputs[4:]}) == len(node.inputs[4:]), "one p", "two")
    return [("f32", of_values.shape)]


def query_of_values(node: Node) -> Value | None:
    """The second query of attention, if it has one."""
    return next((v for v in node.inputs[4:] if not v.is_weight), None)


def head_sizes(node: Node) -> tuple[int, int, int]:
    """Elements of a head of the query, of a key and of a value."""
    q, k, v = node.inputs[:3]
    return q.shape[-1] // int(node["heads"]), k.shape[-1], v.shape[-1]


def check_sinks(sinks: Value, heads: int) -> None:
    """A logit of each head."""
    wanted = f"f32[{heads}]"
    want(sinks.is_weight and sinks.type == wanted, f"sinks: weight {wanted}", sinks.type)


def attention(
    q: Array,
    k: Array,
    v: Array,
    pos: Array,
    *more: Array,
    heads: int,
    kv_heads: int,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
) -> Array:
    """Causal grouped-query attention (Ainslie et al. 2023): token t sees positions 0..pos[t].

    `more`: sinks, a vector, and `p`, a matrix, whichever there are.
    """
    sinks = next((x for x in more if x.ndim == 1), None)
    out = np.empty((len(q), heads, v.shape[-1]), q.dtype)
    for t, last in enumerate(pos):
        rows = slice(first_seen(last, window), last + 1)
        scores = capped(products_of(t, q, k[rows], v[rows], more, heads), scale, cap)
        top = scores.max(-1, keepdims=True)
        if sinks is not None:
            top = np.maximum(top, sinks.reshape(kv_heads, -1, 1))
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        if sinks is not None:
            total += np.exp(sinks.reshape(kv_heads, -1, 1) - top)
        weights /= total
        out[t] = np.einsum("hgp,phd->hgd", weights, v[rows]).reshape(heads, -1)
    return out.reshape(len(q), -1)


def products_of(
    t: int, q: Array, keys: Array, values: Array, more: Iterable[Array], heads: int
) -> Array:
    """Token t's queries times what is cached: [kv_heads, heads of a group, positions]."""
    kv_heads, total = keys.shape[1], np.zeros(1, q.dtype)
    second = ((p, values) for p in more if p.ndim > 1)
    for query, rows in ((q, keys), *second):
        grouped = query[t].reshape(kv_heads, heads // kv_heads, -1)
        total = total + np.einsum("hgd,phd->hgp", grouped, rows)
    return total


def first_seen(last: int, window: int) -> int:
    """The first position that is seen from `last`."""
    return max(0, last + 1 - window) if window else 0


def capped(products: Array, scale: float, cap: float) -> Array:
    """Scores."""
    scores = products * products.dtype.type(scale)
    return softcap(scores, cap=cap) if cap else scores


def attention_bytes(node: Node) -> int:
    """As many rows of both caches as one step can read."""
    positions, rows = positions_seen(node), node.inputs[1].shape[0]
    cache = sum(v.nbytes for v in node.inputs[1:3])
    others = (node.inputs[0], *node.inputs[3:], *node.outputs)
    return cache * positions // rows + sum(v.nbytes for v in others)


def attention_flops(node: Node) -> int:
    """Of the whole context, or the window: what a step costs at the end of it."""
    queries = [v for v in (node.inputs[0], query_of_values(node)) if v is not None]
    elements = (math.prod(v.shape) for v in (*queries, queries[-1]))  # the result is as the last
    return 2 * positions_seen(node) * sum(elements)


def seen_at(node: Node, position: int) -> int:
    """Positions that the token at `position` sees."""
    return position + 1 - first_seen(position, int(node.get("window", 0)))


def positions_seen(node: Node) -> int:
    """Positions that one token sees at the most."""
    rows = node.inputs[1].shape[0]
    return min(rows, int(node["window"]) or rows)


CACHE = "q: f32[T, n], k: state, v: state, pos: i32[T]"
SINKS = "sinks: weight f32[heads]"
OF_VALUES = "p: f32[T, heads * m]"
ATTENTION: dict[str, Attr | type] = {
    "heads": int,
    "kv_heads": int,
    "scale": float,
    "window": 0,
    "cap": 0.0,
}

OPS = (
    Op(
        "kv_append", "store",
        "state: state[context, kv_heads, head_dim], x: f32[T, n], pos: i32[T]",
        (3, 3), infer_kv_append, kv_append, lambda n: 0, {},
        bytes=lambda n: 2 * n.inputs[1].nbytes,
        indices={2: bound_by_positions}, label="kv", work=10, loads=1,
    ),
    Op(
        "attention", "heads", f"{CACHE}, {SINKS}, {OF_VALUES}", (4, 6), infer_attention,
        attention, attention_flops, ATTENTION, bytes=attention_bytes,
        indices={3: bound_by_positions},
    ),
)  # fmt: skip
