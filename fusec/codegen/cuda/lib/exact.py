"""Sums of parts that no order changes: a part counts as a whole number of 2**-30.

That number, p * 2**30 to nearest even, is kept as three words, high * 2**35 + middle * 2**17 + low,
which are added as integers. Adding 1.5 * 2**23 of a unit rounds a float to that unit, and leaves
how many there are in its low bits: no conversion, which costs eight times as much and more.

|p| has to be below 2**22. What is not counts as 2**58 and a little (as much as 2**49, of words that
hold anything). Up to 32 parts, which are less than 2**57 in all, cannot hide one such, nor can 32
of them, which are 2**63, hide each other: a sum that is not in [-2**57, 2**57) is NaN.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, int64, uint32, uint64

from fusec.codegen.cuda.device import (
    at,
    bits_f32,
    bits_u32,
    inline,
    load_shared_u32x4,
    load_u64,
    load_u64x2,
    red_add_u64_if,
    select_f32,
    select_s32,
    store_shared_u32x4,
    store_u32x4_if,
    warp_add_s32,
)


@inline
def words_of(p):
    """A part as words: high, of units of 32; middle, of 2**-13; low, of 2**-30."""
    high = p + float32(402653184.0)
    rest = p - (high - float32(402653184.0))  # at most 16: exact, like what follows
    middle = rest + float32(1536.0)
    rest = rest - (middle - float32(1536.0))
    low = rest + float32(0.01171875)
    fits = abs(p) < float32(4194304.0)
    return (
        select_s32(fits, int32(bits_u32(high) - uint32(0x4DC00000)), int32(1 << 23)),
        int32(bits_u32(middle) - uint32(0x44C00000)),
        int32(bits_u32(low) - uint32(0x3C400000)),
    )


@inline
def plus_words(a, b):
    """The words of a sum."""
    return int32(a[0] + b[0]), int32(a[1] + b[1]), int32(a[2] + b[2])


@inline
def whole(words):
    """The number that words stand for."""
    return int64(
        int64(words[0]) * int64(1 << 35) + int64(words[1]) * int64(1 << 17) + int64(words[2])
    )


@inline
def nearest(number):
    """The float nearest to so many 2**-30; NaN where a part did not fit."""
    wrong = uint64(uint64(number + int64(1 << 57)) >> uint64(58)) != uint64(0)
    value = float32(number) * float32(9.313225746154785e-10)
    return select_f32(wrong, bits_f32(uint32(0x7FC00000)), value)


@inline
def sum_of_branches(s, exponent):
    """The sum of a warp's parts, of which 2**exponent neighbouring lanes have the same."""
    words = words_of(s)
    words = warp_add_s32(words[0]), warp_add_s32(words[1]), warp_add_s32(words[2])
    return nearest(int64(whole(words) >> int64(exponent)))


# --- sums in memory ------------------------------------------------------------------------------


@inline
def clear_pair(sums, i, live):
    """Zeros in sums 2i and 2i + 1."""
    zero = uint32(0)
    store_u32x4_if(at(sums, uint32(i * 2)), zero, zero, zero, zero, live)


@inline
def add_part_if(sum_of_row, part, live):
    """Add a part to a sum in memory, in L2: in whichever order blocks come, it is the same."""
    red_add_u64_if(sum_of_row, uint64(whole(words_of(part))), live)


@inline
def load_sums(sums, i):
    """Sums 4i to 4i + 3."""
    place = uint32(i * 4)
    return load_u64x2(at(sums, place)), load_u64x2(at(sums, uint32(place + 2)))


@inline
def sum_at(sums, i):
    """The float nearest to sum i."""
    return nearest(int64(load_u64(at(sums, i))))


@inline
def quad_of_sums(loaded):
    """The floats nearest to four sums."""
    first, second = loaded
    return (
        nearest(int64(first[0])),
        nearest(int64(first[1])),
        nearest(int64(second[0])),
        nearest(int64(second[1])),
    )


# --- four elements at once -----------------------------------------------------------------------


@inline
def words_of_four(p):
    """Of a quad, or of a lane's four sums."""
    return words_of(p[0]), words_of(p[1]), words_of(p[2]), words_of(p[3])


@inline
def plus_words_of_four(a, b):
    """The words of four sums."""
    return (
        plus_words(a[0], b[0]),
        plus_words(a[1], b[1]),
        plus_words(a[2], b[2]),
        plus_words(a[3], b[3]),
    )


@inline
def nearest_four(words):
    """Four floats."""
    return (
        nearest(whole(words[0])),
        nearest(whole(words[1])),
        nearest(whole(words[2])),
        nearest(whole(words[3])),
    )


@inline
def store_words(places, words):
    """The words of four sums in shared memory, each kind in a place of its own."""
    a, b, c, d = words
    store_shared_u32x4(places[0], uint32(a[0]), uint32(b[0]), uint32(c[0]), uint32(d[0]))
    store_shared_u32x4(places[1], uint32(a[1]), uint32(b[1]), uint32(c[1]), uint32(d[1]))
    store_shared_u32x4(places[2], uint32(a[2]), uint32(b[2]), uint32(c[2]), uint32(d[2]))


@inline
def load_words(places):
    """What `store_words` has stored."""
    high, middle = load_shared_u32x4(places[0]), load_shared_u32x4(places[1])
    low = load_shared_u32x4(places[2])
    return (
        (int32(high[0]), int32(middle[0]), int32(low[0])),
        (int32(high[1]), int32(middle[1]), int32(low[1])),
        (int32(high[2]), int32(middle[2]), int32(low[2])),
        (int32(high[3]), int32(middle[3]), int32(low[3])),
    )
