"""Mixture of experts on the CPU: routing, and the products with the rows that ids choose.

A token's experts are added up in the order of its ids, the best first.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
import math
from typing import Any

from numba import float32, int64, njit

from fusec.codegen.cpu import vector
from fusec.codegen.cpu.lib import Pointer, argmax, sigmoid
from fusec.codegen.cpu.vector import advance, exp_f32, fma_f32
from fusec.ir.op_experts import GATINGS, LEAST_SUM

SOFTMAX, SIGMOID, CHOSEN, SOFTPLUS = range(len(GATINGS))


@njit
def softplus(x):
    """log(1 + exp(x)): with y = exp(-|x|), log(1 + y) = 2 artanh(y / (2 + y)), by its series."""
    y = exp_f32(-abs(x))
    z = y / (y + float32(2))
    square = z * z
    s = float32(1 / 17)
    for k in (15, 13, 11, 9, 7, 5, 3, 1):
        s = fma_f32(s, square, float32(1.0 / k))
    return max(x, float32(0)) + (z + z) * s


@njit
def softmax(x: Pointer, n: int) -> None:
    """In place: exp(x - max) over their sum, added up in order."""
    top = float32(-math.inf)
    for i in range(n):
        top = max(top, x[i])
    total = float32(0)
    for i in range(n):
        x[i] = exp_f32(x[i] - top)
        total += x[i]
    for i in range(n):
        x[i] /= total


@njit
def keep_groups(scores: Pointer, n: int, groups: int, used: int) -> None:
    """Scores of groups whose two best do not add up to most become -inf.

    Behind the n scores is room for as many floats.
    """
    size, sums = n // groups, advance(scores, n)
    for g in range(groups):
        first = second = float32(-math.inf)
        for i in range(g * size, (g + 1) * size):
            second = max(second, min(first, scores[i]))
            first = max(first, scores[i])
        sums[g] = first + second
    for _ in range(used):
        sums[argmax(sums, groups)] = float32(-math.inf)  # kept
    for g in range(groups):
        if sums[g] > float32(-math.inf):
            for i in range(g * size, (g + 1) * size):
                scores[i] = float32(-math.inf)


@njit
def route(
    logits, ids, weights, bias, scratch, n, used, groups, groups_used, gating, biased, normalised,
    scale,
):  # fmt: skip
    """See `fusec.ir.op_experts.route`. `scratch` is room for 3 n floats."""
    probabilities, scores = scratch, advance(scratch, n)
    for i in range(n):
        probabilities[i] = logits[i]
        if gating == SIGMOID:
            probabilities[i] = sigmoid(logits[i])
        elif gating == SOFTPLUS:
            probabilities[i] = math.sqrt(softplus(logits[i]))
    if gating == SOFTMAX:
        softmax(probabilities, n)
    for i in range(n):
        scores[i] = probabilities[i] + bias[i] if biased else probabilities[i]
    if groups > 1:
        keep_groups(scores, n, groups, groups_used)
    for slot in range(used):
        best = argmax(scores, n)
        ids[slot], weights[slot] = best, probabilities[best]
        scores[best] = float32(-math.inf)
    if gating == CHOSEN:
        softmax(weights, used)
    total = float32(0)
    for slot in range(used):
        total += weights[slot]
    for slot in range(used):
        if normalised:
            weights[slot] /= max(total, float32(LEAST_SUM))
        weights[slot] *= scale


@njit
def expert_vector(out: Pointer, ids: Pointer, table: Pointer, used: int, rows: int) -> None:
    """The chosen experts' vectors, such as biases, one after the other."""
    for slot in range(used):
        for i in range(rows):
            out[slot * rows + i] = table[int64(ids[slot]) * rows + i]


@njit
def expert_vector_sum(
    out: Pointer, weights: Pointer, ids: Pointer, table: Pointer, used: int, rows: int
) -> None:
    """Their sum, times weights: one fma each, in order."""
    for i in range(rows):
        total = float32(0)
        for slot in range(used):
            total = fma_f32(weights[slot], table[int64(ids[slot]) * rows + i], total)
        out[i] = total


@functools.cache
def expert_matvec(weights: str) -> Any:
    """`expert_matvec(w, stride, rows, i, ids, used, x, n, tokens, out)`.

    Element i of each token's product with its experts' matrices; rows are `stride` bytes.
    """
    dot = getattr(vector, f"dot_{weights}")

    @njit
    def product(w, stride, rows, i, ids, used, x, n, tokens, out):
        slot, row = i // rows, i % rows
        for t in range(tokens):
            at = (int64(ids[t * used + slot]) * rows + row) * stride
            out[t] = dot(advance(w, at), advance(x, t * n), n)

    return product


@functools.cache
def expert_matvec_sum(weights: str) -> Any:
    """The same of the sum over experts, each with n elements of a token's vector of its own."""
    dot = getattr(vector, f"dot_{weights}")

    @njit
    def product(w, stride, rows, i, ids, used, x, n, tokens, out):
        for t in range(tokens):
            total = float32(0)
            for slot in range(used):
                at = (int64(ids[t * used + slot]) * rows + i) * stride
                total += dot(advance(w, at), advance(x, (t * used + slot) * n), n)
            out[t] = total

    return product
