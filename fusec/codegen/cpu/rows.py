"""What kernels do with rows besides the dot product: decode, sum squares, accumulate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.chunks import chunks, load_chunk, store_chunk
from fusec.codegen.cpu.dot import SPAN, group_lanes
from fusec.codegen.cpu.function import f32, f32p, i64, llvm_function, u8p
from fusec.codegen.cpu.lanes import float_levels, scales_and_mins, widened
from fusec.codegen.cpu.simd import F32, I8, I64, LANES, Features
from fusec.codegen.formats import FloatFormat, Format, QuantFormat


def _summed(
    b: ir.IRBuilder, x: ir.Value, n: ir.Value, add: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """The sum over 16 lanes of what `add(element, lane)` makes of a lane."""

    def step(i: ir.Value, mask: ir.Value | None, state: list[ir.Value]) -> list[ir.Value]:
        return [add(load_chunk(b, x, i, F32, mask), state[0])]

    (lanes,) = chunks(b, n, [simd.const(simd.vec(F32, LANES), 0.0)], step)
    return simd.reduce_tree(b, lanes)


sum_row = llvm_function(
    "sum_row",
    f32,
    {"x": f32p, "n": i64},
    lambda b, x, n: _summed(b, x, n, b.fadd),
    "The sum of x[i], in 16 lanes, added by the final tree.",
)
sum_squares = llvm_function(
    "sum_squares",
    f32,
    {"x": f32p, "n": i64},
    lambda b, x, n: _summed(b, x, n, lambda value, lane: simd.fma(b, value, value, lane)),
    "The sum of x[i] squared, in 16 lanes, one fma an element, added by the final tree.",
)


def axpy(values: FloatFormat, features: Features | None = None, name: str = "") -> Any:
    """`axpy(acc, v, p, n)`: acc[i] = fma(p, v[i], acc[i]) for f32 `acc` and `v` of that format."""

    def body(b: ir.IRBuilder, acc: ir.Value, v: ir.Value, p: ir.Value, n: ir.Value) -> None:
        used = features or Features.of_target()
        factor = simd.splat(b, p, LANES)
        element = ir.IntType(8 * values.dtype.block_bytes)

        def step(i: ir.Value, mask: ir.Value | None, _: list[ir.Value]) -> list[ir.Value]:
            value = widened(b, values, load_chunk(b, v, i, element, mask), used)
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
        store_chunk(b, widened(b, weights, bits, features), out, i, mask)
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

    def step(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        block = simd.at(b, w, b.mul(i, I64(weights.dtype.block_bytes)), I8)
        scales, mins = scales_and_mins(b, weights, [block], features)
        for span in range(weights.spans):
            levels = simd.concat(b, *float_levels(b, weights, block, span, features))
            values = b.fmul(simd.concat(b, *group_lanes(b, weights, scales, span)), levels)
            if mins is not None:
                values = b.fsub(values, simd.concat(b, *group_lanes(b, weights, mins, span)))
            # position in `out` of the span's first element; lanes outside [0, count) are off
            start = b.sub(b.add(b.mul(i, I64(size)), I64(SPAN * span)), first)
            before = simd.first_lanes(b, b.neg(start), SPAN)
            inside = simd.first_lanes(b, b.sub(count, start), SPAN)
            mask = b.and_(inside, b.not_(before))
            simd.masked_store(b, values, simd.at(b, out, start, F32), mask)
        return []

    end = b.sdiv(b.add(b.add(first, count), I64(size - 1)), I64(size))
    simd.loop(b, b.sdiv(first, I64(size)), end, 1, [], step)
