"""Rotary position embedding (Su et al. 2021, RoFormer)."""

from __future__ import annotations

import numpy as np

from fusec.ir.graph import Node, attrs
from fusec.ir.op import Lookup, Op, bound_by_positions
from fusec.ir.op_checks import Array, Type, activation, elements_of, per_token, want


def infer_rope(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    x, pos = node.inputs[:2]
    tokens, n = activation(x)
    per_token(pos, tokens, "pos")
    head, dims = int(node["head_dim"]), int(node["dims"])
    want(head > 0 and n % head == 0, f"whole heads of {head}", x.type)
    want(dims % 2 == 0 and 0 < dims <= head, f"an even number of rotary dims up to {head}", dims)
    want(node["pairing"] in ("adjacent", "halves"), "pairing adjacent or halves", node["pairing"])
    if len(node.inputs) == 3:
        factors = node.inputs[2]
        good = factors.is_weight and factors.shape == (dims // 2,)
        want(good, f"factors: a weight f32[{dims // 2}]", factors.type)
    return [("f32", (tokens, n))]


def rope_angles(
    pos: Array, base: float, dims: int, scale: float, factors: Array | None = None
) -> Array:
    """Rotation angles in float64, [T, dims/2]: scale * pos / (base^(2j/dims) * factors[j]).

    `scale` is linear position scaling, `factors` Llama 3's per-pair divisors (`rope_freqs.weight`).
    """
    inverse = float(base) ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    if factors is not None:
        inverse = inverse / np.asarray(factors, np.float64)
    return scale * np.asarray(pos, np.float64)[:, None] * inverse


def rope(
    x: Array,
    pos: Array,
    factors: Array | None = None,
    *,
    base: float,
    head_dim: int,
    dims: int,
    pairing: str,
    scale: float,
    magnitude: float = 1.0,
) -> Array:
    """Each head's first `dims` elements rotated by pairs: neighbours, or halves (GPT-NeoX).

    What is rotated is multiplied by `magnitude`.
    """
    angle = rope_angles(pos, base, dims, scale, factors)[:, None, :]
    cos, sin = ((magnitude * turn(angle)).astype(x.dtype) for turn in (np.cos, np.sin))
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


def _lookup(node: Node) -> Lookup:
    given = {name: node[name] for name in ("base", "dims", "scale")}
    if node["magnitude"] != 1.0:
        given["magnitude"] = node["magnitude"]
    return Lookup("rope", attrs(**given), next((v.name for v in node.weights), ""))


OPS = (
    Op(
        "rope", "pair", "x: f32[T, n], pos: i32[T], factors: f32[dims/2]", (2, 3),
        infer_rope, rope, lambda n: 3 * elements_of(n),
        {
            **{"base": float, "head_dim": int, "dims": int},
            **{"pairing": "adjacent", "scale": 1.0, "magnitude": 1.0},
        },
        indices={1: bound_by_positions}, work=25, loads=1, lookup=_lookup,
    ),
)  # fmt: skip
