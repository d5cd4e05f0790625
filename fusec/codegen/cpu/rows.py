"""What kernels do with rows besides the dot product: quantise, decode, sum squares, accumulate."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.chunks import chunks, load_chunk, store_chunk
from fusec.codegen.cpu.function import f32, f32p, i16p, i64, llvm_function, u8p
from fusec.codegen.cpu.simd import F32, I8, I16, I32, I64, LANES, Features
from fusec.codegen.formats import FloatFormat, Format, QuantFormat

SPAN = 32
# Spans whose largest magnitude is below this are zeros: 32767 / amax must not overflow.
SMALLEST_AMAX = 2.0**-100


def _sum_squares(b: ir.IRBuilder, x: ir.Value, n: ir.Value) -> ir.Value:
    def step(i: ir.Value, mask: ir.Value | None, state: list[ir.Value]) -> list[ir.Value]:
        value = load_chunk(b, x, i, F32, mask)
        return [simd.fma(b, value, value, state[0])]

    (lanes,) = chunks(b, n, [simd.const(simd.vec(F32, LANES), 0.0)], step)
    return simd.reduce_tree(b, lanes)


sum_squares = llvm_function(
    "sum_squares",
    f32,
    {"x": f32p, "n": i64},
    _sum_squares,
    "The sum of x[i] squared, in 16 lanes, one fma an element, added by the final tree.",
)


def axpy(values: FloatFormat, features: Features | None = None, name: str = "") -> Any:
    """`axpy(acc, v, p, n)`: acc[i] = fma(p, v[i], acc[i]) for f32 `acc` and `v` of that format."""

    def body(b: ir.IRBuilder, acc: ir.Value, v: ir.Value, p: ir.Value, n: ir.Value) -> None:
        used = features or Features.of_target()
        factor = simd.splat(b, p, LANES)
        element = ir.IntType(8 * values.dtype.block_bytes)

        def step(i: ir.Value, mask: ir.Value | None, _: list[ir.Value]) -> list[ir.Value]:
            value = values.emit_widen(b, load_chunk(b, v, i, element, mask), used)
            added = simd.fma(b, factor, value, load_chunk(b, acc, i, F32, mask))
            store_chunk(b, added, acc, i, mask)
            return []

        chunks(b, n, [], step)

    return llvm_function(
        name or f"axpy_{values.name}",
        types.void,
        {"acc": f32p, "v": u8p, "p": f32, "n": i64},
        body,
        f"acc[i] = fma(p, v[i], acc[i]) for a row v of {values.name}.",
    )


def _quantize_row(
    b: ir.IRBuilder, x: ir.Value, xq: ir.Value, xscale: ir.Value, xsum: ir.Value, n: ir.Value
) -> None:
    floats, ints = simd.vec(F32, SPAN), simd.vec(I32, SPAN)

    def step(span: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        first = b.mul(span, I64(SPAN))
        values = simd.load(b, simd.at(b, x, first, F32), floats)
        # as integers, magnitudes order like the floats they are, NaN above infinity
        magnitudes = b.and_(b.bitcast(values, ints), simd.const(ints, 0x7FFFFFFF))
        amax = b.bitcast(simd.call(b, "llvm.vector.reduce.umax.v32i32", I32, magnitudes), F32)
        usable = b.and_(
            b.fcmp_ordered(">=", amax, F32(SMALLEST_AMAX)),
            b.fcmp_ordered("<", amax, F32(float("inf"))),
        )
        inverse = simd.splat(b, b.fdiv(F32(32767.0), amax), SPAN)
        rounded = simd.call(b, "llvm.rint.v32f32", floats, b.fmul(values, inverse))
        levels = b.fptosi(b.select(usable, rounded, simd.const(floats, 0.0)), ints)
        scale = b.fdiv(amax, F32(32767.0))
        total = simd.call(b, "llvm.vector.reduce.add.v32i32", I32, levels)
        simd.store(b, b.trunc(levels, simd.vec(I16, SPAN)), simd.at(b, xq, first, I16))
        simd.store(b, scale, simd.at(b, xscale, span, F32))
        simd.store(b, b.fmul(scale, b.sitofp(total, F32)), simd.at(b, xsum, span, F32))
        return []

    simd.loop(b, I64(0), b.sdiv(n, I64(SPAN)), 1, [], step)


quantize_row = llvm_function(
    "quantize_row",
    types.void,
    {"x": f32p, "xq": i16p, "xscale": f32p, "xsum": f32p, "n": i64},
    _quantize_row,
    "Activations to int16 in spans of 32: scale = amax / 32767, level = rint(x * (32767 / amax)),"
    " xsum = scale * sum of levels. n is a multiple of 32. A span that holds NaN or infinity gets"
    " zero levels and that scale, so what is computed from it is NaN.",
)


def decode_row(weights: Format, features: Features | None = None, name: str = "") -> Any:
    """`decode_row(w, out, first, count)`: elements of one row as floats, equal to `decode`'s bits.

    Writes elements `first` to `first + count - 1` of row `w` to `out[0:count]`.
    """

    def body(b: ir.IRBuilder, *arguments: ir.Value) -> None:
        used = features or Features.of_target()
        if isinstance(weights, FloatFormat):
            _decode_float(b, weights, used, *arguments)
        elif isinstance(weights, QuantFormat):
            _decode_quant(b, weights, used, *arguments)

    return llvm_function(
        name or f"decode_row_{weights.name}",
        types.void,
        {"w": u8p, "out": f32p, "first": i64, "count": i64},
        body,
        f"Elements first to first + count - 1 of a row of {weights.name} as floats.",
    )


def _decode_float(
    b: ir.IRBuilder,
    weights: FloatFormat,
    features: Features,
    w: ir.Value,
    out: ir.Value,
    first: ir.Value,
    count: ir.Value,
) -> None:
    element = ir.IntType(8 * weights.dtype.block_bytes)

    def step(i: ir.Value, mask: ir.Value | None, _: list[ir.Value]) -> list[ir.Value]:
        bits = load_chunk(b, w, b.add(first, i), element, mask)
        store_chunk(b, weights.emit_widen(b, bits, features), out, i, mask)
        return []

    chunks(b, count, [], step)


def _decode_quant(
    b: ir.IRBuilder,
    weights: QuantFormat,
    features: Features,
    w: ir.Value,
    out: ir.Value,
    first: ir.Value,
    count: ir.Value,
) -> None:
    size = weights.dtype.block
    floats = simd.vec(F32, SPAN)

    def step(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        block = simd.at(b, w, b.mul(i, I64(weights.dtype.block_bytes)), I8)
        scales = weights.emit_scales(b, [block], features)
        mins = weights.emit_mins(b, [block], features) if weights.has_min else None
        for span in range(weights.spans):
            levels = weights.emit_levels(b, block, span, features)
            values = b.fmul(simd.shuffle(b, scales, [span] * SPAN), b.sitofp(levels, floats))
            if mins is not None:
                values = b.fsub(values, simd.shuffle(b, mins, [span] * SPAN))
            # position in `out` of the span's first element; lanes outside [0, count) are off
            start = b.sub(b.add(b.mul(i, I64(size)), I64(SPAN * span)), first)
            before = simd.first_lanes(b, b.neg(start), SPAN)
            inside = simd.first_lanes(b, b.sub(count, start), SPAN)
            mask = b.and_(inside, b.not_(before))
            simd.masked_store(b, values, simd.at(b, out, start, F32), mask)
        return []

    end = b.sdiv(b.add(b.add(first, count), I64(size - 1)), I64(size))
    simd.loop(b, b.sdiv(first, I64(size)), end, 1, [], step)
