"""Rows and vectors of the experts that ids choose: expert `ids[s]` is in slot s."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import (
    at,
    fma,
    inline,
    load_f32,
    load_u32,
    load_weight_f32,
    min_u32,
)
from fusec.codegen.cuda.lib.vectors import only, only_quad, quad_weight


@inline
def row_of_expert(ids, row, rows):
    """Where row `row % rows` of the expert in slot `row // rows` lies in the matrix of all."""
    slot = uint32(row // uint32(rows))
    return uint32((load_u32(at(ids, slot)) - slot) * uint32(rows) + row)


@inline
def element_of_experts(vectors, ids, i, rows):
    """Element i of the vectors of all slots."""
    return load_weight_f32(at(vectors, row_of_expert(ids, i, rows)))


@inline
def quad_of_experts(vectors, ids, i, rows, n):
    """Quad i of those n floats; zeros behind them."""
    if rows % 4 == 0:
        first = uint32(min_u32(uint32(i), uint32(n // 4 - 1)) * uint32(4))
        own = quad_weight(at(vectors, row_of_expert(ids, first, rows)), uint32(0), 4)
        return only_quad(i < uint32(n // 4), own)
    last, j = uint32(n - 1), uint32(i * 4)
    b, c, d = uint32(j + uint32(1)), uint32(j + uint32(2)), uint32(j + uint32(3))
    return (
        only(j <= last, element_of_experts(vectors, ids, min_u32(j, last), rows)),
        only(b <= last, element_of_experts(vectors, ids, min_u32(b, last), rows)),
        only(c <= last, element_of_experts(vectors, ids, min_u32(c, last), rows)),
        only(d <= last, element_of_experts(vectors, ids, min_u32(d, last), rows)),
    )


@inline
def element_over_experts(vectors, ids, weights, i, rows, used):
    """The sum over slots of their element i, times weights, one fma each."""
    total = float32(0)
    for slot in range(used):
        place = uint32(load_u32(at(ids, uint32(slot))) * uint32(rows) + i)
        weight = load_f32(at(weights, uint32(slot)))
        total = fma(weight, load_weight_f32(at(vectors, place)), total)
    return total


@inline
def quad_over_experts(vectors, ids, weights, i, rows, used):
    """The same of quad i; zeros behind the last."""
    last, j = uint32(rows - 1), uint32(i * 4)
    b, c, d = uint32(j + uint32(1)), uint32(j + uint32(2)), uint32(j + uint32(3))
    return (
        only(j <= last, element_over_experts(vectors, ids, weights, min_u32(j, last), rows, used)),
        only(b <= last, element_over_experts(vectors, ids, weights, min_u32(b, last), rows, used)),
        only(c <= last, element_over_experts(vectors, ids, weights, min_u32(c, last), rows, used)),
        only(d <= last, element_over_experts(vectors, ids, weights, min_u32(d, last), rows, used)),
    )
