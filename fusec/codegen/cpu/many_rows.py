"""Many rows of one float format at once: the cached keys and values that attention reads.

Each function gives the same bits as a loop over `dot` or `axpy`. The loop is inside the function so
that what all rows share stays in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.chunks import chunks, load_chunk, store_chunk
from fusec.codegen.cpu.function import f32p, i64, llvm_function, u8p
from fusec.codegen.cpu.lanes import widened
from fusec.codegen.cpu.simd import F32, I64, LANES, Features
from fusec.codegen.formats import FloatFormat

ROWS = 4  # dot products in flight, whose final trees share their additions
WIDE = 4  # chunks of an accumulator in registers


def dot_rows(rows: FloatFormat, features: Features | None = None, name: str = "") -> Any:
    """`dot_rows(out, w, stride, count, x, n)`: out[j] = dot(w + j * stride, x, n).

    `stride` is in elements of the format.
    """

    def body(b: ir.IRBuilder, *arguments: ir.Value) -> None:
        out, w, stride, count, x, n = arguments
        used = features or Features.of_target()
        element = _element(rows)

        def step_of(at_once: int) -> Any:
            def step(first: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                starts = [
                    simd.at(b, w, b.mul(b.add(first, I64(r)), stride), element)
                    for r in range(at_once)
                ]

                def chunk(
                    i: ir.Value, mask: ir.Value | None, lanes: list[ir.Value]
                ) -> list[ir.Value]:
                    factor = load_chunk(b, x, i, F32, mask)
                    return [
                        simd.fma(b, _widened(b, rows, start, i, mask, used), factor, lane)
                        for start, lane in zip(starts, lanes, strict=True)
                    ]

                zero = simd.const(simd.vec(F32, LANES), 0.0)
                sums = simd.reduce_trees(b, chunks(b, n, [zero] * at_once, chunk))
                simd.store(b, sums, simd.at(b, out, first, F32))
                return []

            return step

        whole = b.and_(count, I64(-ROWS))
        simd.loop(b, I64(0), whole, ROWS, [], step_of(ROWS))
        simd.loop(b, whole, count, 1, [], step_of(1))

    return llvm_function(
        name or f"dot_rows_{rows.name}",
        types.void,
        {"out": f32p, "w": u8p, "stride": i64, "count": i64, "x": f32p, "n": i64},
        body,
        f"out[j] = the dot product of row j of {rows.name} with x.",
    )


def axpy_rows(rows: FloatFormat, features: Features | None = None, name: str = "") -> Any:
    """`axpy_rows(acc, v, stride, count, p, n)`: axpy(acc, v + j * stride, p[j], n) for each j.

    `stride` is in elements of the format; rows are added in order.
    """

    def body(b: ir.IRBuilder, *arguments: ir.Value) -> None:
        acc, v, stride, count, p, n = arguments
        used = features or Features.of_target()

        def add_rows(start: ir.Value, width: int, mask: ir.Value | None) -> None:
            offsets = [b.add(start, I64(LANES * k)) for k in range(width)]

            def step(j: ir.Value, lanes: list[ir.Value]) -> list[ir.Value]:
                row = simd.at(b, v, b.mul(j, stride), _element(rows))
                factor = simd.splat(b, simd.load(b, simd.at(b, p, j, F32), F32), LANES)
                return [
                    simd.fma(b, factor, _widened(b, rows, row, offset, mask, used), lane)
                    for offset, lane in zip(offsets, lanes, strict=True)
                ]

            before = [load_chunk(b, acc, offset, F32, mask) for offset in offsets]
            after = simd.loop(b, I64(0), count, 1, before, step)
            for value, offset in zip(after, offsets, strict=True):
                store_chunk(b, value, acc, offset, mask)

        def wide(start: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            add_rows(start, WIDE, None)
            return []

        def narrow(i: ir.Value, mask: ir.Value | None, _: list[ir.Value]) -> list[ir.Value]:
            add_rows(b.add(whole, i), 1, mask)
            return []

        whole = b.and_(n, I64(-WIDE * LANES))
        simd.loop(b, I64(0), whole, WIDE * LANES, [], wide)
        chunks(b, b.sub(n, whole), [], narrow)

    return llvm_function(
        name or f"axpy_rows_{rows.name}",
        types.void,
        {"acc": f32p, "v": u8p, "stride": i64, "count": i64, "p": f32p, "n": i64},
        body,
        f"acc[i] = fma(p[j], v[j][i], acc[i]) for each row j of {rows.name} in order.",
    )


def _element(rows: FloatFormat) -> ir.IntType:
    return ir.IntType(8 * rows.dtype.block_bytes)


def _widened(
    b: ir.IRBuilder,
    rows: FloatFormat,
    row: ir.Value,
    i: ir.Value,
    mask: ir.Value | None,
    features: Features,
) -> ir.Value:
    """16 elements of a row as f32 lanes."""
    return widened(b, rows, load_chunk(b, row, i, _element(rows), mask), features)
