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
from fusec.codegen.cpu.vector import advance, exp_f32, exp_row, sum_row, sum_squares

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
def layer_norm(out: Pointer, x: Pointer, w: Pointer, n: int, eps: float) -> None:
    """out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w over n floats."""
    mean = sum_row(x, n) / float32(n)
    for i in range(n):
        out[i] = x[i] - mean
    rms_norm(out, out, w, n, eps)


@njit
def add_row(out: Pointer, x: Pointer, n: int) -> None:
    """out = out + x over n floats."""
    for i in range(n):
        out[i] += x[i]


@njit
def silu(x: float) -> float:
    """x * sigmoid(x)."""
    return x / (float32(1) + exp_f32(-x))


@njit
def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return float32(1) / (float32(1) + exp_f32(-x))


@njit
def swiglu_oai(gate: float, up: float) -> float:
    """g * sigmoid(1.702 g) * (u + 1) with g up to 7 and u within 7."""
    g = min(gate, float32(7))
    u = max(min(up, float32(7)), float32(-7))
    return g * sigmoid(float32(1.702) * g) * (u + float32(1))


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
def relu_squared(x: float) -> float:
    """max(x, 0)^2; NaN stays."""
    positive = float32(0) if x < float32(0) else x
    return positive * positive


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
    """`dots(row, x, n, stride, tokens, out)`: one row of a format times several tokens' vectors.

    They have n elements; token t's starts `stride` after token t - 1's. A row is decoded once for
    up to four tokens; each token's sum has the bits it would have alone.
    """
    one, two, three, four = (getattr(vector, f"dot{k}_{weights}") for k in ("", 2, 3, 4))

    @njit
    def dots(row, x, n, stride, tokens, out):  # type: ignore[no-untyped-def]
        t = int64(0)
        while t + 4 <= tokens:
            first = advance(x, t * stride)
            out[t], out[t + 1], out[t + 2], out[t + 3] = four(row, first, n, stride)
            t += 4
        rest, last = tokens - t, advance(x, t * stride)
        if rest == 3:
            out[t], out[t + 1], out[t + 2] = three(row, last, n, stride)
        elif rest == 2:
            out[t], out[t + 1] = two(row, last, n, stride)
        elif rest == 1:
            out[t] = one(row, last, n)

    return dots


def _attention(dot_rows: Any, axpy_rows: Any, latent: bool = False) -> Any:
    @njit
    def attention(
        out: Pointer,
        q: Pointer,
        k: Pointer,
        v: Pointer,
        stride: int,
        head_dim: int,
        first: int,
        end: int,
        pages: Pointer,
        page: int,
        scale: float,
        cap: float,
        has_sink: bool,
        sink: float,
        scores: Pointer,
        p: Pointer,
        v_stride: int,
        v_dim: int,
        more: Pointer,
    ) -> None:
        """One head of one token over cached keys and values `first` to `end - 1`.

        Online softmax (Milakov & Gimelshein 2018) over chunks of CHUNK positions, in order, of
        which the first may begin with some that are not seen. Rows are `stride` elements apart;
        `pages` has the first row of each `page` positions, a power of two of chunks. `cap`: of
        scores, or 0. `sink`: a logit without a value, if there is one. `scores` is room for CHUNK
        floats, and so is `more`. `latent`: a score is q . k + p . v, and values have sizes of
        their own.
        """
        top = float32(-math.inf)
        total = float32(0)
        for d in range(v_dim):
            out[d] = float32(0)
        for chunk in range(first // CHUNK, (end + CHUNK - 1) // CHUNK):
            start = max(chunk * CHUNK, first)
            count = min((chunk + 1) * CHUNK, end) - start
            row = pages[start // page] + (start & (page - 1))
            dot_rows(scores, advance(k, row * stride), stride, count, q, head_dim)
            if latent:
                dot_rows(more, advance(v, row * v_stride), v_stride, count, p, v_dim)
                for j in range(count):
                    scores[j] += more[j]
            high = top
            for j in range(count):
                scores[j] *= scale
                if cap:
                    scores[j] = softcap(scores[j], cap)
                high = max(high, scores[j])
            fade = exp_f32(top - high)
            for d in range(v_dim):
                out[d] *= fade
            exp_row(scores, high, count)
            axpy_rows(out, advance(v, row * v_stride), v_stride, count, scores, v_dim)
            part = float32(0)
            for j in range(count):
                part += scores[j]
            total = total * fade + part
            top = high
        if has_sink:
            high = max(top, sink)
            fade = exp_f32(top - high)
            for d in range(v_dim):
                out[d] *= fade
            total = total * fade + exp_f32(sink - high)
        for d in range(v_dim):
            out[d] /= total

    return attention


attention_f16 = _attention(vector.dot_rows_f16, vector.axpy_rows_f16)
attention_f32 = _attention(vector.dot_rows_f32, vector.axpy_rows_f32)
latent_attention_f16 = _attention(vector.dot_rows_f16, vector.axpy_rows_f16, latent=True)
latent_attention_f32 = _attention(vector.dot_rows_f32, vector.axpy_rows_f32, latent=True)
