"""Norms over a vector or over each head of it (Zhang & Sennrich 2019, RMSNorm)."""

from __future__ import annotations

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


def infer_head_norm(node: Node) -> list[Type]:
    """f32[T, n], as x."""
    x, w = node.inputs
    tokens, n = activation(x)
    head = int(node["head_dim"])
    want(head > 0 and n % head == 0, f"whole heads of {head}", x.type)
    want(w.dtype == "f32" and w.shape == (head,), f"w: f32[{head}]", w.type)
    return [("f32", (tokens, n))]


def head_norm(x: Array, w: Array, *, eps: float, head_dim: int) -> Array:
    """`rms_norm` of each head of `head_dim` elements, all by the same weights."""
    heads = x.reshape(len(x), -1, head_dim)
    return rms_norm(heads, w, eps).reshape(x.shape)


def _work(node: Node, threads: int, position: int) -> float:
    return NORM + NORM_QUAD * -(-node.outputs[0].shape[-1] // 128)


def _work_heads(node: Node, threads: int, position: int) -> float:
    head = int(node["head_dim"])
    heads = node.outputs[0].shape[-1] // head
    return -(-heads // (threads // 32)) * (NORM + NORM_QUAD * -(-head // 128))


OPS = (
    Op(
        "rms_norm", "vector", "x: f32[T, n], w: f32[n]", (2, 2), infer_rms_norm, rms_norm,
        lambda n: 4 * elements_of(n), {"eps": float}, label="norm", work_whole=_work, trees=1,
    ),
    Op(
        "rms_factors", "vector", "x: f32[T, n], w: f32[n]", (2, 2), infer_rms_factors, rms_factors,
        lambda n: 4 * elements_of(n), {"eps": float}, outputs=("", ".inverse"), label="norm",
        work_whole=_work, trees=1,
    ),
    Op(
        "head_norm", "vector", "x: f32[T, heads * head_dim], w: f32[head_dim]", (2, 2),
        infer_head_norm, head_norm, lambda n: 4 * elements_of(n),
        {"eps": float, "head_dim": int}, work_whole=_work_heads, trees=1,
    ),
)  # fmt: skip
