"""One row of weights, as it lies in the file, times one or several tokens' f32 activations.

The canonical order of a dot product (part of the numbers contract), in 16 f32 lanes:

- Float weights: one fma an element; element i belongs to lane i % 16.
- Quantised weights go by spans of 32. Lane i meets elements i and 16 + i of each span, in this
  order: p = level * x, p = fma(level', x', p), and then lane = fma(p, scale, lane). Formats with
  minima or with a scale for each half of a span form the weights first, one rounding each:
  p = weight * x, p = fma(weight', x', p), lane = lane + p.
- `simd.reduce_tree` adds the lanes.

Several tokens share the decoding of a weight and nothing else, so each token's result has the bits
it would have alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.chunks import chunks, load_chunk
from fusec.codegen.cpu.function import f32, f32p, i64, llvm_function, u8p
from fusec.codegen.cpu.lanes import float_levels, scales_and_mins, widened
from fusec.codegen.cpu.simd import F32, I8, I64, LANES, Features
from fusec.codegen.formats import FloatFormat, Format, QuantFormat

# One-span blocks are taken four at a time: their f16 scales are converted together.
BLOCKS_AT_ONCE = 4
SPAN = 32


def row_dot(
    weights: Format, tokens: int = 1, features: Features | None = None, name: str = ""
) -> Any:
    """The dot product of a row of weights with `tokens` f32 rows.

    One token: `dot(w, x, n) -> f32`. Several: `dotT(w, x, n, stride) -> UniTuple(f32, T)` where
    token t's activations start at `x + t * stride`. For quantised formats `n` is a multiple of the
    block; for float formats it is any length.
    """

    def body(b: ir.IRBuilder, w: ir.Value, x: ir.Value, n: ir.Value, *stride: ir.Value) -> ir.Value:
        used = features or Features.of_target()
        vectors = [
            simd.at(b, x, b.mul(stride[0], I64(t)) if t else I64(0), F32) for t in range(tokens)
        ]
        if isinstance(weights, QuantFormat):
            lanes = _QuantRow(b, weights, used, w, vectors).lanes(n)
        else:
            assert isinstance(weights, FloatFormat)
            lanes = _float_lanes(b, weights, used, w, vectors, n)
        return _result(b, [simd.reduce_tree(b, value) for value in lanes])

    arguments = {"w": u8p, "x": f32p, "n": i64}
    return llvm_function(
        name or f"dot{tokens if tokens > 1 else ''}_{weights.name}",
        types.UniTuple(f32, tokens) if tokens > 1 else f32,
        arguments | ({"stride": i64} if tokens > 1 else {}),
        body,
        f"A row of {weights.name} times {tokens} row(s) of f32.",
    )


def _float_lanes(
    b: ir.IRBuilder,
    weights: FloatFormat,
    features: Features,
    row: ir.Value,
    vectors: list[ir.Value],
    n: ir.Value,
) -> list[ir.Value]:
    """The 16 lanes of each token, for a row of floats."""
    element = ir.IntType(8 * weights.dtype.block_bytes)

    def step(i: ir.Value, mask: ir.Value | None, lanes: list[ir.Value]) -> list[ir.Value]:
        weight = widened(b, weights, load_chunk(b, row, i, element, mask), features)
        return [
            simd.fma(b, weight, load_chunk(b, x, i, F32, mask), lane)
            for x, lane in zip(vectors, lanes, strict=True)
        ]

    zero = simd.const(simd.vec(F32, LANES), 0.0)
    return chunks(b, n, [zero] * len(vectors), step)


@dataclass(frozen=True)
class _QuantRow:
    """Emits the loop over the blocks of one row of a quantised format."""

    b: ir.IRBuilder
    weights: QuantFormat
    features: Features
    row: ir.Value
    vectors: list[ir.Value]

    def lanes(self, n: ir.Value) -> list[ir.Value]:
        """The 16 lanes of each token."""
        b, weights = self.b, self.weights
        blocks = b.sdiv(n, I64(weights.dtype.block))
        state = [simd.const(simd.vec(F32, LANES), 0.0)] * len(self.vectors)
        if weights.spans == 1:
            whole = b.and_(blocks, I64(-BLOCKS_AT_ONCE))
            step = self._step(BLOCKS_AT_ONCE)
            state = simd.loop(b, I64(0), whole, BLOCKS_AT_ONCE, state, step)
            return simd.loop(b, whole, blocks, 1, state, self._step(1))
        return simd.loop(b, I64(0), blocks, 1, state, self._step(1))

    def _step(self, at_once: int) -> Any:
        """The loop body for that many consecutive blocks."""
        b, weights = self.b, self.weights

        def step(i: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            size = I64(weights.dtype.block_bytes)
            blocks = [
                simd.at(b, self.row, b.mul(b.add(i, I64(k)), size), I8) for k in range(at_once)
            ]
            scales, mins = scales_and_mins(b, weights, blocks, self.features)
            first = b.mul(i, I64(weights.spans))
            for span in range(at_once * weights.spans):
                block, inside = divmod(span, weights.spans)
                levels = float_levels(b, weights, blocks[block], inside, self.features)
                start = b.mul(b.add(first, I64(span)), I64(SPAN))
                state = self._span(levels, scales, mins, span, start, state)
            return state

        return step

    def _span(
        self,
        levels: tuple[ir.Value, ir.Value],
        scales: ir.Value,
        mins: ir.Value | None,
        span: int,
        start: ir.Value,
        state: list[ir.Value],
    ) -> list[ir.Value]:
        """The lanes after 32 more elements, from element `start` on."""
        b = self.b
        halves = group_lanes(b, self.weights, scales, span)
        form_first = mins is not None or self.weights.group < SPAN
        if mins is not None:
            offsets = group_lanes(b, self.weights, mins, span)
            levels = tuple(
                simd.fma(b, v, s, b.fneg(m))
                for v, s, m in zip(levels, halves, offsets, strict=True)
            )
        elif form_first:
            levels = tuple(b.fmul(v, s) for v, s in zip(levels, halves, strict=True))
        lanes = []
        for x, lane in zip(self.vectors, state, strict=True):
            low, high = (
                simd.load(b, simd.at(b, x, b.add(start, I64(LANES * h)), F32), levels[0].type)
                for h in (0, 1)
            )
            p = simd.fma(b, levels[1], high, b.fmul(levels[0], low))
            lanes.append(b.fadd(lane, p) if form_first else simd.fma(b, p, halves[0], lane))
        return lanes


def group_lanes(
    b: ir.IRBuilder, weights: QuantFormat, values: ir.Value, span: int
) -> tuple[ir.Value, ir.Value]:
    """The values (scales or minima) of the groups a span's two halves belong to, in every lane."""
    groups = SPAN // weights.group
    first, last = groups * span, groups * span + groups - 1
    return (simd.shuffle(b, values, [first] * LANES), simd.shuffle(b, values, [last] * LANES))


def _result(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    """One float, or an array of them (numba's UniTuple)."""
    if len(values) == 1:
        return values[0]
    result: ir.Value = ir.Constant(ir.ArrayType(F32, len(values)), ir.Undefined)
    for position, value in enumerate(values):
        result = b.insert_value(result, value, position)
    return result
