"""Norms over a vector or over each head of it.

RMS norm is of Zhang & Sennrich 2019; LayerNorm, of Ba et al. 2016, takes the mean away first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fusec.ir.graph import Node
from fusec.ir.op import Op
from fusec.ir.op_checks import Array, Type, activation, elements_of, want

NORM, NORM_QUAD = 45, 7  # instructions of a warp for a norm, and for each 128 elements of it


def infer_rms_norm(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    x, w = node.inputs
    tokens, n = activation(x)
    want(w.dtype == "f32" and w.shape == (n,), f"w: f32[{n}]", w.type)
    return [("f32", (tokens, n))]


def inverse_rms(x: Array, eps: float) -> Array:
    """1 / sqrt(mean(x^2) + eps) over the last axis, which stays, with one element."""
    return 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))


def rms_norm(x: Array, w: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * w."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps)) * w


def infer_rms_factors(node: Node) -> list[Type]:
    """f32[T, n], and a factor for each token."""
    (gained,) = infer_rms_norm(node)
    return [gained, ("f32", (gained[1][0], 1))]


def rms_factors(x: Array, w: Array, eps: float) -> tuple[Array, Array]:
    """The two factors of an RMS norm: x * w and 1 / sqrt(mean(x^2) + eps)."""
    return x * w, inverse_rms(x, eps)


def infer_layer_norm(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    x, *weights = node.inputs
    tokens, n = activation(x)
    for name, w in zip(("w", "bias"), weights, strict=False):
        want(w.is_weight and w.dtype == "f32" and w.shape == (n,), f"{name}: f32[{n}]", w.type)
    return [("f32", (tokens, n))]


def layer_norm(x: Array, w: Array, bias: Array | None = None, *, eps: float) -> Array:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w, plus a bias if there is one."""
    normed = rms_norm(x - np.mean(x, axis=-1, keepdims=True), w, eps)
    return normed if bias is None else normed + bias


def infer_head_norm(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    x, w = node.inputs
    tokens, n = activation(x)
    head = int(node["head_dim"])
    want(head > 0 and n % head == 0, f"whole heads of {head}", x.type)
    known = w.dtype == "f32" and w.shape in ((head,), (n,))
    want(known, f"w: f32[{head}]{f' or f32[{n}]' if n != head else ''}", w.type)
    return [("f32", (tokens, n))]


def has_own_weights(node: Node) -> bool:
    """Whether a norm of heads has weights for each of several heads, not the same for all."""
    return node.inputs[1].shape != (node["head_dim"],)


def head_norm(x: Array, w: Array, *, eps: float, head_dim: int) -> Array:
    """`rms_norm` of each head of `head_dim` elements, all by the same weights or by their own."""
    heads = x.reshape(len(x), -1, head_dim)
    return rms_norm(heads, w.reshape(-1, head_dim), eps).reshape(x.shape)


def head_layer_norm(x: Array, w: Array, *, eps: float, head_dim: int) -> Array:
    """`layer_norm` of each head, in the same way."""
    heads = x.reshape(len(x), -1, head_dim)
    return layer_norm(heads, w.reshape(-1, head_dim), eps=eps).reshape(x.shape)


def _work(node: Node, threads: int, position: int) -> float:
    return NORM + NORM_QUAD * -(-node.outputs[0].shape[-1] // 128)


def _work_heads(node: Node, threads: int, position: int) -> float:
    head = int(node["head_dim"])
    heads = node.outputs[0].shape[-1] // head
    return -(-heads // (threads // 32)) * (NORM + NORM_QUAD * -(-head // 128))


def _twice(
    work: Callable[[Node, int, int], float],
) -> Callable[[Node, int, int], float]:
    """Of a norm that adds up first the elements and then their squares."""
    return lambda node, threads, position: 2 * work(node, threads, position)


OPS = (
    Op(
        "rms_norm", "vector", "x: f32[T, n], w: f32[n]", (2, 2), infer_rms_norm, rms_norm,
        lambda n: 4 * elements_of(n), {"eps": float}, label="norm", work_whole=_work, trees=1,
        by_heads=True,
    ),
    Op(
        "rms_factors", "vector", "x: f32[T, n], w: f32[n]", (2, 2), infer_rms_factors, rms_factors,
        lambda n: 4 * elements_of(n), {"eps": float}, outputs=("", ".inverse"), label="norm",
        work_whole=_work, trees=1, by_quads=True,
    ),
    Op(
        "layer_norm", "vector", "x: f32[T, n], w: f32[n], bias: f32[n]", (2, 3), infer_layer_norm,
        layer_norm, lambda n: 7 * elements_of(n), {"eps": float}, label="norm",
        work_whole=_twice(_work), trees=2,
    ),
    Op(
        "head_norm", "vector", "x: f32[T, heads * head_dim], w: f32[head_dim] or of all heads",
        (2, 2), infer_head_norm, head_norm, lambda n: 4 * elements_of(n),
        {"eps": float, "head_dim": int}, work_whole=_work_heads, trees=1, by_heads=True,
    ),
    Op(
        "head_layer_norm", "vector",
        "x: f32[T, heads * head_dim], w: f32[head_dim] or of all heads", (2, 2), infer_head_norm,
        head_layer_norm, lambda n: 6 * elements_of(n), {"eps": float, "head_dim": int},
        label="head_norm", work_whole=_twice(_work_heads), trees=2, by_heads=True,
    ),
)  # fmt: skip
