"""Vectors in fixed point for tiles, in memory and in shared memory (see `fusec.ir.op_fixed`).

In shared memory, records are 32 bytes further apart, so that the lanes of a warp, which make four
blocks of a row at once, write to different banks.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import int32, uint32

from fusec.codegen.cuda.device import (
    at,
    inline,
    load_shared_f32x4,
    map_shared,
    s32_to_f32,
    select_u32,
    send_f32x4_if,
    shuffle_from_f32,
    shuffle_xor_f32,
    shuffle_xor_u32,
    store_f32_if,
    store_f32x2_if,
    store_shared_f32_if,
    store_shared_f32x2_if,
    store_shared_u32_if,
    store_u32_if,
)
from fusec.codegen.cuda.lib.tiles import fixed23_quad
from fusec.codegen.cuda.lib.vectors import fixed24_quad


@inline
def keep_fixed24(x, i, inside, out, row):
    """Write quad i of a row, if it is inside, as fixed24; all lanes of its block take part."""
    digits, facts = parts_of_fixed24(x, True)
    keep_digits(digits, i, inside, out)
    keep_facts(facts, i, inside, out, row)


@inline
def keep_fixed23(x, i, inside, out, row):
    """The same as fixed23."""
    digits, facts = parts_of_fixed23(x, True)
    keep_digits(digits, i, inside, out)
    keep_facts(facts, i, inside, out, row)


@inline
def parts_of_fixed24(x, sums):
    """A quad's digits, lowest first, and its block's facts: quantum, sum, and the half's sum.

    Without `sums` only the quantum, which is all that most formats need.
    """
    low, middle, high, quantum, total = fixed24_quad(x)
    if sums:
        half = half_sum(total)
        whole = uint32(half + shuffle_xor_u32(half, uint32(4)))
        return (low, middle, high), (quantum, s32_to_f32(int32(whole)), s32_to_f32(int32(half)))
    return (low, middle, high), (quantum, quantum, quantum)


@inline
def parts_of_fixed23(x, sums):
    """The same as fixed23. A block's sum is that of its halves' sums, which are rounded before."""
    low, middle, high, quantum, total = fixed23_quad(x)
    if sums:
        half = s32_to_f32(int32(half_sum(total)))
        return (low, middle, high), (quantum, half + shuffle_xor_f32(half, uint32(4)), half)
    return (low, middle, high), (quantum, quantum, quantum)


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
def keep_digits(digits, i, inside, out):
    """Write the digits of quad i."""
    low, middle, high = digits
    q = uint32(i & uint32(7))
    record = uint32(uint32(i >> uint32(3)) * 224)
    word = uint32(record + uint32(q & uint32(3)) * 2 + uint32(q >> uint32(2)))
    store_u32_if(at(out, word), low, inside)
    store_u32_if(at(out, uint32(word + 64)), middle, inside)
    store_u32_if(at(out, uint32(word + 128)), high, inside)


@inline
def keep_facts(values, i, inside, out, row):
    """Write what is to be known of a block: its quantum, its sum, and those of its halves."""
    quantum, whole, half = values
    q = uint32(i & uint32(7))
    facts = uint32(uint32(i >> uint32(3)) * 224 + uint32(192) - uint32(row & uint32(7)) * 4)
    first = inside & (q == uint32(0))
    store_f32x2_if(at(out, facts), quantum, whole, first)
    leader = inside & (uint32(q & uint32(3)) == uint32(0))
    store_f32_if(at(out, uint32(facts + 2 + (q >> uint32(2)))), half, leader)


# --- in shared memory ----------------------------------------------------------------------------


@inline
def store_record_fixed24(x, i, inside, records, row, sums):
    """Write quad i of a row to its records, if it is inside; all lanes of its block take part.

    `records`: where those of eight rows begin; `row`: which of the eight it is; `sums`: whether
    somebody wants those of the block.
    """
    digits, facts = parts_of_fixed24(x, sums)
    store_in_record(digits, facts, i, inside, records, row, sums)


@inline
def store_record_fixed23(x, i, inside, records, row, sums):
    """The same as fixed23."""
    digits, facts = parts_of_fixed23(x, sums)
    store_in_record(digits, facts, i, inside, records, row, sums)


@inline
def store_in_record(digits, facts, i, inside, records, row, sums):
    """What both write."""
    record = uint32(records + uint32(uint32(i) >> uint32(3)) * 928)
    there, behind = uint32(record + row * 32), uint32(record + 768 + row * 16)
    store_parts(digits, facts, uint32(i & uint32(7)), inside, there, 256, behind, sums)


@inline
def store_fixed24(x, q, inside, place, apart, behind, sums):
    """Write quad q of a block as fixed24: digits `apart` bytes apart, and facts `behind` them."""
    digits, facts = parts_of_fixed24(x, sums)
    store_parts(digits, facts, q, inside, place, apart, behind, sums)


@inline
def store_parts(digits, facts, q, inside, place, apart, behind, sums):
    """Write the parts of quad q of a block."""
    word = uint32(place + (uint32(q & uint32(3)) * 2 + uint32(q >> uint32(2))) * 4)
    store_shared_u32_if(word, digits[0], inside)
    store_shared_u32_if(uint32(word + apart), digits[1], inside)
    store_shared_u32_if(uint32(word + 2 * apart), digits[2], inside)
    first = inside & (q == uint32(0))
    if sums:
        store_shared_f32x2_if(behind, facts[0], facts[1], first)
        leader = inside & (uint32(q & uint32(3)) == uint32(0))
        store_shared_f32_if(uint32(behind + 8 + uint32(q >> uint32(2)) * 4), facts[2], leader)
    else:
        store_shared_f32_if(behind, facts[0], first)


@inline
def quad_of_lanes(x, lane):
    """Quad `lane` mod 8 of the 32 floats that lanes have."""
    first = uint32(uint32(lane & uint32(7)) * 4)
    return (
        shuffle_from_f32(x, first),
        shuffle_from_f32(x, uint32(first + 1)),
        shuffle_from_f32(x, uint32(first + 2)),
        shuffle_from_f32(x, uint32(first + 3)),
    )


# A row's block alone is 112 bytes: its digits, 32 bytes each, and behind them its facts. In pieces
# of 16 bytes it goes to other thread blocks, into a record that it is a row of.


@inline
def store_sent(x, lane, place):
    """Write a warp's quads as one block; every eight lanes have all of them."""
    q = uint32(lane & uint32(7))
    store_fixed24(x, q, lane < uint32(8), place, 32, uint32(place + 96), True)


@inline
def store_block(x, i, inside, blocks, sums):
    """Write quad i of a row, if it is inside, to such blocks, one after the other."""
    block = uint32(blocks + uint32(uint32(i) >> uint32(3)) * 112)
    store_fixed24(x, uint32(i & uint32(7)), inside, block, 32, uint32(block + 96), sums)


@inline
def send_piece(piece, block, record, row, mailbox, rank, live):
    """Send a piece of a block to a thread block of the cluster, to a row of a record.

    The record and the mailbox that counts what arrives have the same place in all of them.
    """
    digits = uint32(uint32(piece >> uint32(1)) * 256 + uint32(piece & uint32(1)) * 16 + row * 32)
    place = select_u32(piece == uint32(6), uint32(768 + row * 16), digits)
    a, b, c, d = load_shared_f32x4(uint32(block + piece * 16))
    to, counted = map_shared(uint32(record + place), rank), map_shared(mailbox, rank)
    send_f32x4_if(to, a, b, c, d, counted, live)
