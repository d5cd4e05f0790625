"""What emitted CPU kernels call besides the vector intrinsics: small Numba functions.

Pointers are raw and typed; lengths are in elements. Every function has one order of operations,
so a value comes out the same whichever kernel computes it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import float32, int64, njit

from fusec.codegen.cpu import vector
from fusec.codegen.cpu.vector import advance, exp_f32, sum_squares
from fusec.codegen.formats import FORMATS

__all__ = [
    "argmax",
    "attention_f16",
    "attention_f32",
    "gelu",
    "rms_norm",
    "share",
    "silu",
    "softcap",
]

CHUNK = 64  # positions whose scores share one maximum before they are folded into the softmax
Pointer = Any


@njit
def share(n: int, thread: int, threads: int) -> tuple[int, int]:
    """This thread's part [low, high) of n units."""
    return int64(n) * thread // threads, int64(n) * (thread + 1) // threads


@njit
def rms_norm(out: Pointer, x: Pointer, w: Pointer, n: int, eps: float) -> None:
    """out = x / sqrt(mean(x^2) + eps) * w over n floats."""
    inverse = float32(1) / math.sqrt(sum_squares(x, n) / float32(n) + eps)
    for i in range(n):
        out[i] = x[i] * inverse * w[i]


@njit
def silu(x: float) -> float:
    """x * sigmoid(x)."""
    return x / (float32(1) + exp_f32(-x))


@njit
def tanh(x: float) -> float:
    """1 - 2 / (exp(2x) + 1): absolute error near one unit in the last place of 1."""
    return float32(1) - float32(2) / (exp_f32(x + x) + float32(1))


@njit
def gelu(x: float) -> float:
    """The tanh form."""
    cubic = x + float32(0.044715) * x * x * x
    return float32(0.5) * x * (float32(1) + tanh(float32(math.sqrt(2 / math.pi)) * cubic))


@njit
def softcap(x: float, cap: float) -> float:
    """cap * tanh(x / cap)."""
    return cap * tanh(x / cap)


@njit
def argmax(x: Pointer, n: int) -> int:
    """Index of the largest of n floats, the first one on ties."""
    best = int64(0)
    for i in range(n):
        if x[i] > x[best]:
            best = i
    return best


@functools.cache
def dots(weights: str) -> Any:
    """The function that multiplies one row of a format with the activations of several tokens.

    Quantised formats: `dots(row, x_q, x_scale, x_sum, n, tokens, out)`; float formats:
    `dots(row, x, n, tokens, out)`. Token t's vector starts n elements after token t - 1's. A row is
    decoded once for four tokens; each token's sum has the same order as alone.
    """
    one, four = getattr(vector, f"dot_{weights}"), getattr(vector, f"dot4_{weights}")

    @njit
    def quantized(row, xq, scale, total, n, tokens, out):  # type: ignore[no-untyped-def]
        spans = n // 32
        t = int64(0)
        while t + 4 <= tokens:
            q, s, z = advance(xq, t * n), advance(scale, t * spans), advance(total, t * spans)
            out[t], out[t + 1], out[t + 2], out[t + 3] = four(row, q, s, z, n, n, spans)
            t += 4
        while t < tokens:
            q, s, z = advance(xq, t * n), advance(scale, t * spans), advance(total, t * spans)
            out[t] = one(row, q, s, z, n)
            t += 1

    @njit
    def plain(row, x, n, tokens, out):  # type: ignore[no-untyped-def]
        t = int64(0)
        while t + 4 <= tokens:
            out[t], out[t + 1], out[t + 2], out[t + 3] = four(row, advance(x, t * n), n, n)
            t += 4
        while t < tokens:
            out[t] = one(row, advance(x, t * n), n)
            t += 1

    return quantized if FORMATS[weights].quantized else plain


def _attention(dot: Any, axpy: Any) -> Any:
    @njit
    def attention(
        out: Pointer,
        q: Pointer,
        k: Pointer,
        v: Pointer,
        stride: int,
        head_dim: int,
        positions: int,
        scale: float,
        scores: Pointer,
    ) -> None:
        """One head of one token over `positions` cached keys and values, `stride` elements apart.

        Online softmax (Milakov & Gimelshein 2018) over chunks of CHUNK positions, in order.
        `scores` is room for CHUNK floats.
        """
        top = float32(-math.inf)
        total = float32(0)
        for d in range(head_dim):
            out[d] = float32(0)
        for start in range(0, positions, CHUNK):
            count = min(CHUNK, positions - start)
            high = top
            for j in range(count):
                score = dot(advance(k, (start + j) * stride), q, head_dim) * scale
                scores[j] = score
                high = max(high, score)
            fade = exp_f32(top - high)
            for d in range(head_dim):
                out[d] *= fade
            part = float32(0)
            for j in range(count):
                weight = exp_f32(scores[j] - high)
                part += weight
                axpy(out, advance(v, (start + j) * stride), weight, head_dim)
            total = total * fade + part
            top = high
        for d in range(head_dim):
            out[d] /= total

    return attention


attention_f16 = _attention(vector.dot_f16, vector.axpy_f16)
attention_f32 = _attention(vector.dot_f32, vector.axpy_f32)
