"""Vectors in fixed point in memory (see `fusec.ir.op_fixed`)."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import int32, uint32

from fusec.codegen.cuda.device import (
    at,
    inline,
    s32_to_f32,
    shuffle_xor_f32,
    shuffle_xor_u32,
    store_f32_if,
    store_f32x2_if,
    store_u32_if,
)
from fusec.codegen.cuda.lib.tiles import fixed23_quad
from fusec.codegen.cuda.lib.vectors import fixed24_quad


@inline
def keep_fixed24(x, i, inside, out, row):
    """Write quad i of a row, if it is inside, as fixed24; all lanes of its block take part."""
    low, middle, high, quantum, total = fixed24_quad(x)
    half = half_sum(total)
    whole = uint32(half + shuffle_xor_u32(half, uint32(4)))
    keep_digits(low, middle, high, i, inside, out)
    keep_facts(quantum, s32_to_f32(int32(whole)), s32_to_f32(int32(half)), i, inside, out, row)


@inline
def keep_fixed23(x, i, inside, out, row):
    """The same as fixed23. A block's sum is that of its halves' sums, which are rounded before."""
    low, middle, high, quantum, total = fixed23_quad(x)
    half = s32_to_f32(int32(half_sum(total)))
    keep_digits(low, middle, high, i, inside, out)
    keep_facts(quantum, half + shuffle_xor_f32(half, uint32(4)), half, i, inside, out, row)


@inline
def fixed_row(out, row, blocks):
    """Where a row's digits of its first block are: `out` of the functions here."""
    group = uint32(row >> uint32(3))
    return at(out, uint32(group * uint32(blocks * 224) + uint32(row & uint32(7)) * 8))


@inline
def half_sum(total):
    """The sum of half a block's integers, out of those of quads."""
    half = uint32(total)
    half = uint32(half + shuffle_xor_u32(half, uint32(1)))
    return uint32(half + shuffle_xor_u32(half, uint32(2)))


@inline
def keep_digits(low, middle, high, i, inside, out):
    """Write the digits of quad i."""
    q = uint32(i & uint32(7))
    record = uint32(uint32(i >> uint32(3)) * 224)
    word = uint32(record + uint32(q & uint32(3)) * 2 + uint32(q >> uint32(2)))
    store_u32_if(at(out, word), low, inside)
    store_u32_if(at(out, uint32(word + 64)), middle, inside)
    store_u32_if(at(out, uint32(word + 128)), high, inside)


@inline
def keep_facts(quantum, whole, half, i, inside, out, row):
    """Write what is to be known of a block: its quantum, its sum, and those of its halves."""
    q = uint32(i & uint32(7))
    facts = uint32(uint32(i >> uint32(3)) * 224 + uint32(192) - uint32(row & uint32(7)) * 4)
    first = inside & (q == uint32(0))
    store_f32x2_if(at(out, facts), quantum, whole, first)
    leader = inside & (uint32(q & uint32(3)) == uint32(0))
    store_f32_if(at(out, uint32(facts + 2 + (q >> uint32(2)))), half, leader)
