"""Walking rows of any length in chunks of 16 elements.

Element i belongs to lane i % 16. The lanes behind the end are zero, and their memory is not
touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from fusec.codegen.cpu import simd
from fusec.codegen.cpu.simd import I64, LANES


def chunks(
    b: ir.IRBuilder,
    n: ir.Value,
    carried: Sequence[ir.Value],
    body: Callable[[ir.Value, ir.Value | None, list[ir.Value]], Sequence[ir.Value]],
) -> list[Any]:
    """`body(first element, mask, carried)` for each chunk of `n` elements; returns the last state.

    `body` is emitted twice: for full chunks, where mask is None, and for the rest.
    """
    whole = b.and_(n, I64(-LANES))
    state = simd.loop(b, I64(0), whole, LANES, carried, lambda i, s: body(i, None, s))
    mask = simd.first_lanes(b, b.sub(n, whole), LANES)
    # no round or one
    return simd.loop(b, whole, n, LANES, state, lambda i, s: body(i, mask, s))


def load_chunk(
    b: ir.IRBuilder, ptr: ir.Value, index: ir.Value, element: ir.Type, mask: ir.Value | None
) -> ir.Value:
    """16 elements from `index` on; masked lanes are zero."""
    address = simd.at(b, ptr, index, element)
    typ = simd.vec(element, LANES)
    return simd.load(b, address, typ) if mask is None else simd.masked_load(b, address, typ, mask)


def store_chunk(
    b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, index: ir.Value, mask: ir.Value | None
) -> None:
    """Write 16 elements from `index` on, or those whose lane is on."""
    address = simd.at(b, ptr, index, value.type.element)
    if mask is None:
        simd.store(b, value, address)
    else:
        simd.masked_store(b, value, address, mask)
