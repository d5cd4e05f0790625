"""One row of weights, as it lies in the file, times one or several tokens' activations.

The canonical order of a dot product (part of the numbers contract):

- Quantised weights meet int16 activations in spans of 32. Products and the sum of two neighbours
  are exact in int32, and that sum is below 2**24, so it is exact as f32 too. Lane i of 16 takes
  neighbours 2i and 2i+1: one fma a span with the product of the weight's and the activation's
  scale. Minima meet the spans' sums in one lane per span of a block.
- Float weights meet f32 activations in 16 lanes, one fma an element.
- `simd.reduce_tree` adds the lanes; the minima's sum is subtracted at the end.

Several tokens share the decoding of a weight and nothing else, so each token's result has the bits
it would have alone.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.chunks import chunks, load_chunk
from fusec.codegen.cpu.function import f32, f32p, i16p, i64, llvm_function, u8p
from fusec.codegen.cpu.simd import F32, I8, I16, I32, I64, LANES, Features
from fusec.codegen.formats import FloatFormat, QuantFormat

# One-span blocks are taken four at a time: their f16 scales are converted together.
BLOCKS_AT_ONCE = 4


def quant_dot(
    weights: QuantFormat, tokens: int = 1, features: Features | None = None, name: str = ""
) -> Any:
    """The dot product of a quantised row with `tokens` quantised rows, made by `quantize_row`.

    One token: `dot(w, xq, xscale, xsum, n) -> f32`. Several: `dotT(w, xq, xscale, xsum, n,
    q_stride, s_stride) -> UniTuple(f32, T)` where token t's levels start at `xq + t * q_stride` and
    its scales and sums at `t * s_stride`, in elements. `n` is a multiple of the format's block.
    """

    def body(
        b: ir.IRBuilder,
        w: ir.Value,
        xq: ir.Value,
        xscale: ir.Value,
        xsum: ir.Value,
        n: ir.Value,
        *strides: ir.Value,
    ) -> ir.Value:
        row = _QuantRow(b, weights, features or Features.of_target(), w)
        for t in range(tokens):
            q, s = (b.mul(stride, I64(t)) for stride in strides) if t else (I64(0), I64(0))
            levels, scales = simd.at(b, xq, q, I16), simd.at(b, xscale, s, F32)
            row.add_token(levels, scales, simd.at(b, xsum, s, F32))
        return _result(b, row.dot(n))

    arguments = {"w": u8p, "xq": i16p, "xscale": f32p, "xsum": f32p, "n": i64}
    strides = {"q_stride": i64, "s_stride": i64} if tokens > 1 else {}
    return llvm_function(
        name or _name(weights.name, tokens),
        types.UniTuple(f32, tokens) if tokens > 1 else f32,
        arguments | strides,
        body,
        f"A row of {weights.name} times {tokens} token(s) of int16 activations.",
    )


def float_dot(
    weights: FloatFormat, tokens: int = 1, features: Features | None = None, name: str = ""
) -> Any:
    """The dot product of a row of floats with `tokens` f32 rows.

    One token: `dot(w, x, n) -> f32`. Several: `dotT(w, x, n, stride) -> UniTuple(f32, T)` where
    token t's activations start at `x + t * stride`. Any `n`.
    """

    def body(b: ir.IRBuilder, w: ir.Value, x: ir.Value, n: ir.Value, *stride: ir.Value) -> ir.Value:
        used = features or Features.of_target()
        rows = [x, *(simd.at(b, x, b.mul(stride[0], I64(t)), F32) for t in range(1, tokens))]
        element = ir.IntType(8 * weights.dtype.block_bytes)

        def step(i: ir.Value, mask: ir.Value | None, lanes: list[ir.Value]) -> list[ir.Value]:
            weight = weights.emit_widen(b, load_chunk(b, w, i, element, mask), used)
            return [
                simd.fma(b, weight, load_chunk(b, row, i, F32, mask), lane)
                for row, lane in zip(rows, lanes, strict=True)
            ]

        zero = simd.const(simd.vec(F32, LANES), 0.0)
        return _result(b, [simd.reduce_tree(b, v) for v in chunks(b, n, [zero] * tokens, step)])

    arguments = {"w": u8p, "x": f32p, "n": i64}
    return llvm_function(
        name or _name(weights.name, tokens),
        types.UniTuple(f32, tokens) if tokens > 1 else f32,
        arguments | ({"stride": i64} if tokens > 1 else {}),
        body,
        f"A row of {weights.name} times {tokens} row(s) of f32.",
    )


class _QuantRow:
    """Emits the loop over the blocks of one row; tokens are added before `dot` is called."""

    def __init__(self, b: ir.IRBuilder, weights: QuantFormat, features: Features, row: ir.Value):
        self.b, self.weights, self.features, self.row = b, weights, features, row
        self.tokens: list[tuple[ir.Value, ir.Value, ir.Value]] = []

    def add_token(self, levels: ir.Value, scales: ir.Value, sums: ir.Value) -> None:
        """Activations to multiply with: levels, scale and sum of each span."""
        self.tokens.append((levels, scales, sums))

    def dot(self, n: ir.Value) -> list[ir.Value]:
        """The dot product with each token."""
        b, weights, count = self.b, self.weights, len(self.tokens)
        blocks = b.sdiv(n, I64(weights.dtype.block))
        zero = simd.const(simd.vec(F32, LANES), 0.0)
        state = [zero] * count
        if weights.has_min:
            state += [simd.const(simd.vec(F32, weights.spans), 0.0)] * count
        if weights.spans == 1:
            whole = b.and_(blocks, I64(-BLOCKS_AT_ONCE))
            step = self._step(BLOCKS_AT_ONCE)
            state = simd.loop(b, I64(0), whole, BLOCKS_AT_ONCE, state, step)
            state = simd.loop(b, whole, blocks, 1, state, self._step(1))
        else:
            state = simd.loop(b, I64(0), blocks, 1, state, self._step(1))
        sums = [simd.reduce_tree(b, lanes) for lanes in state]
        if weights.has_min:
            return [b.fsub(s, m) for s, m in zip(sums[:count], sums[count:], strict=True)]
        return sums

    def _step(self, at_once: int) -> Any:
        """The loop body for that many consecutive blocks."""
        b, weights, features = self.b, self.weights, self.features
        spans = at_once * weights.spans

        def step(i: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            size = I64(weights.dtype.block_bytes)
            blocks = [
                simd.at(b, self.row, b.mul(b.add(i, I64(k)), size), I8) for k in range(at_once)
            ]
            first = b.mul(i, I64(weights.spans))
            scales = weights.emit_scales(b, blocks, features)
            factors = [b.fmul(scales, self._spans(token[1], first, spans)) for token in self.tokens]
            for span in range(spans):
                block, inside = divmod(span, weights.spans)
                levels = weights.emit_levels(b, blocks[block], inside, features)
                wide = b.sext(levels, simd.vec(I32, 32))
                for t, (xq, _, _) in enumerate(self.tokens):
                    start = b.mul(b.add(first, I64(span)), I64(32))
                    x = simd.load(b, simd.at(b, xq, start, I16), simd.vec(I16, 32))
                    factor = simd.shuffle(b, factors[t], [span] * LANES)
                    state[t] = simd.fma(b, _pair_sums(b, wide, x), factor, state[t])
            if weights.has_min:
                mins = weights.emit_mins(b, blocks, features)
                for t, (_, _, xsum) in enumerate(self.tokens, start=len(self.tokens)):
                    state[t] = simd.fma(b, mins, self._spans(xsum, first, spans), state[t])
            return state

        return step

    def _spans(self, ptr: ir.Value, first: ir.Value, count: int) -> ir.Value:
        """One f32 of each of `count` spans from `first` on."""
        return simd.load(self.b, simd.at(self.b, ptr, first, F32), simd.vec(F32, count))


def _pair_sums(b: ir.IRBuilder, wide: ir.Value, x: ir.Value) -> ir.Value:
    """Products of 32 levels with 32 int16, neighbours added: what x86 calls pmaddwd."""
    products = b.mul(wide, b.sext(x, simd.vec(I32, 32)))
    even, odd = (simd.shuffle(b, products, range(s, 32, 2)) for s in (0, 1))
    return b.sitofp(b.add(even, odd), simd.vec(F32, LANES))


def _name(weights: str, tokens: int) -> str:
    return f"dot{tokens if tokens > 1 else ''}_{weights}"


def _result(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    """One float, or an array of them (numba's UniTuple)."""
    if len(values) == 1:
        return values[0]
    result: ir.Value = ir.Constant(ir.ArrayType(F32, len(values)), ir.Undefined)
    for position, value in enumerate(values):
        result = b.insert_value(result, value, position)
    return result
