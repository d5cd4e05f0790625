"""Pairs of a row of the step and an expert, sorted by expert (see `fusec.ir.op_groups`)."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import int32, uint32

from fusec.codegen.cuda.device import (
    at,
    count_ones,
    inline,
    load_u32,
    min_u32,
    select_s32,
    select_u32,
    store_u32_if,
    warp_add_s32,
    warp_ballot,
)


@inline
def expert_at(ids, place, pairs):
    """The expert of the pair at a place; one that there is not behind the last pair."""
    found = load_u32(at(ids, min_u32(place, uint32(pairs - 1))))
    return select_u32(place < pairs, found, uint32(0xFFFFFFFF))


@inline
def pairs_before(ids, pairs, expert, lane):
    """How many pairs are of experts with a lower number."""
    before = int32(0)
    for step in range(uint32(uint32(pairs + 127) >> uint32(7))):
        first = uint32(step * 128 + lane)
        a, b = expert_at(ids, first, pairs), expert_at(ids, uint32(first + 32), pairs)
        c, d = (
            expert_at(ids, uint32(first + 64), pairs),
            expert_at(ids, uint32(first + 96), pairs),
        )
        before = before + select_s32(a < expert, int32(1), int32(0))
        before = before + select_s32(b < expert, int32(1), int32(0))
        before = before + select_s32(c < expert, int32(1), int32(0))
        before = before + select_s32(d < expert, int32(1), int32(0))
    return uint32(warp_add_s32(int32(before)))


@inline
def place_pairs(order, mine, pair, first, lane):
    """Write the lanes' pairs that are `mine`, from place `first` on; the place behind them."""
    votes = warp_ballot(mine)
    before = count_ones(uint32(votes & uint32(uint32(uint32(1) << lane) - uint32(1))))
    store_u32_if(at(order, uint32(first + before)), pair, mine)
    return uint32(first + count_ones(votes))


@inline
def sort_pairs(ids, order, pairs, expert, first, lane):
    """Write an expert's pairs, the lowest first, from place `first` on."""
    place = uint32(first)
    for step in range(uint32(uint32(pairs + 127) >> uint32(7))):
        pair = uint32(step * 128 + lane)
        a, b = expert_at(ids, pair, pairs), expert_at(ids, uint32(pair + 32), pairs)
        c, d = (
            expert_at(ids, uint32(pair + 64), pairs),
            expert_at(ids, uint32(pair + 96), pairs),
        )
        place = place_pairs(order, a == expert, pair, place, lane)
        place = place_pairs(order, b == expert, uint32(pair + 32), place, lane)
        place = place_pairs(order, c == expert, uint32(pair + 64), place, lane)
        place = place_pairs(order, d == expert, uint32(pair + 96), place, lane)


@inline
def expert_of_tile(starts, tile, experts, width, lane):
    """Whose tile has that number, of those that have `width` pairs (see `gemm_pairs`)."""
    begun = int32(0)
    for step in range((experts + 31) // 32):
        expert = uint32(step * 32 + lane)
        start = load_u32(at(starts, min_u32(expert, uint32(experts - 1))))
        has = uint32(uint32(start // uint32(width)) + expert) <= tile
        has = has & (expert < uint32(experts))
        begun = begun + select_s32(has, int32(1), int32(0))
    return uint32(warp_add_s32(int32(begun)) - int32(1))


@inline
def record_of_pair(pair, used, blocks, of_slot, words):
    """Where a pair's first record is, in words; in the three lowest bits its row of the eight.

    A record has so many `words`. A row has `blocks` of them, a slot of these `of_slot` (see
    `fusec.ir.op_groups.blocks_of_slot`).
    """
    row = uint32(pair // uint32(used))
    slot = uint32(pair - row * uint32(used))
    first = uint32(uint32(row >> uint32(3)) * uint32(blocks) + slot * uint32(of_slot))
    return uint32(first * uint32(words) + uint32(row & uint32(7)))


@inline
def two_digits_of_row(record, lane):
    """Where the lane's 16 bytes of the lower digits of a record's row are, in words."""
    row = uint32(record & uint32(7))
    inside = uint32(uint32(lane >> uint32(4)) * 64 + row * 8 + uint32(lane & uint32(1)) * 4)
    return uint32(uint32(record - row) + inside)


@inline
def last_digit_or_facts(record, lane):
    """The same of the upper digit, in the lanes of one half, and of a row's facts in the others."""
    row = uint32(record & uint32(7))
    digits = uint32(uint32(128) + row * 8 + uint32(lane & uint32(1)) * 4)
    inside = select_u32(lane < uint32(16), digits, uint32(uint32(192) + row * 4))
    return uint32(uint32(record - row) + inside)
