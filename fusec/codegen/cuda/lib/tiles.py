"""Tiles of 16 rows times a vector, on the tensor cores (see `fusec.codegen.formats.tiles`).

A lane, 4g + t, has words t of both halves of a span in rows g and g + 8. Of the product it gets
columns 2t and 2t + 1 for these rows: the vector's digits, `middle high low -`, of the whole span or
of its first half, then the same of its second half.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    and_or,
    bits_f32,
    bits_u32,
    fma,
    inline,
    load_shared_f32,
    load_shared_u32x2,
    mad_s32,
    max_magnitude,
    max_u32,
    mma_s8_16x8x32,
    prmt,
    s32_to_f32,
    select_f32,
    select_u32,
    shuffle_xor_f32,
    shuffle_xor_u32,
    store_shared_f32_if,
    store_shared_u32_if,
    zero_of_lane,
)
from fusec.codegen.cuda.lib.codes import moved, word_lowered

# --- levels of a lane ----------------------------------------------------------------------------


@inline
def word_of_fours(q, place):
    """A word of nibbles: low ones are of the first half."""
    mask = uint32(0x0F0F0F0F << place)
    return uint32(moved(q, 0, place) & mask), uint32(moved(q, 4, place) & mask)


@inline
def turned(bits, at, step, t, place):
    """Bit `at + step * t` of each byte brought to `place`; the others must be masked off."""
    if place >= at + 3 * step:
        return uint32(bits << uint32(place - at - step * t))
    if place <= at:
        return uint32(bits >> uint32(at - place + step * t))
    return moved(uint32(bits >> uint32(step * t)), at, place)


@inline
def word_of_twos(pairs, t, place):
    """Bits 2t and 2t + 1 of each byte, a word for each half."""
    mask = uint32(0x03030303 << place)
    return (
        uint32(turned(pairs[0], 0, 2, t, place) & mask),
        uint32(turned(pairs[1], 0, 2, t, place) & mask),
    )


@inline
def word_with_twos(levels, pairs, t, place):
    """Two more bits of each level."""
    mask = uint32(0x03030303 << place)
    return (
        and_or(turned(pairs[0], 0, 2, t, place), mask, levels[0]),
        and_or(turned(pairs[1], 0, 2, t, place), mask, levels[1]),
    )


@inline
def word_with_ones(levels, bits, t, place):
    """One more bit: bit t of each byte for the first half, bit 4 + t for the second."""
    mask = uint32(0x01010101 << place)
    return (
        and_or(turned(bits, 0, 1, t, place), mask, levels[0]),
        and_or(turned(bits, 4, 1, t, place), mask, levels[1]),
    )


@inline
def terms_of_fours(q, a, b, c, d):
    """Of two tables of eight, a term each: an entry where bit 3 of a nibble says so, or its sign.

    `prmt` takes the nibbles as they are: bit 3 asks it for the sign.
    """
    nothing = zero_of_lane()
    a, c = uint32(a + nothing), uint32(c + nothing)
    second = uint32(q >> uint32(16))
    flipped, other = uint32(q ^ uint32(0x88888888)), uint32(second ^ uint32(0x8888))
    return (prmt(a, b, q), prmt(a, b, second)), (prmt(c, d, flipped), prmt(c, d, other))


@inline
def words_lowered(levels, offset):
    """Levels less an offset."""
    return word_lowered(levels[0], offset), word_lowered(levels[1], offset)


# --- the vector ----------------------------------------------------------------------------------
# Block b of 32 floats is integers of 22 bits and a sign, in units of 2**(e - 21) for a largest
# magnitude with exponent e. Adding 1.5 * 2**23 rounds to such an integer and leaves it in the lower
# bits. Its bytes are made signed digits, which takes a carry. A block has 96 bytes: of each digit
# 32, in which word t of both halves are neighbours.

ROUNDING = 0x4B400000  # the bits of 1.5 * 2**23


@inline
def store_tile_digits(x, i, blocks, digits, scales):
    """Write quad i as fixed point; the eight lanes that share its block take part.

    Returns the sum of its four integers.
    """
    inside = i < uint32(blocks * 8)
    largest = max_magnitude(max_magnitude(x[0], x[1]), max_magnitude(x[2], x[3]))
    largest = max_magnitude(largest, shuffle_xor_f32(largest, uint32(4)))
    largest = max_magnitude(largest, shuffle_xor_f32(largest, uint32(2)))
    largest = bits_u32(max_magnitude(largest, shuffle_xor_f32(largest, uint32(1))))
    exponent = max_u32(uint32(largest & uint32(0x7F800000)), uint32(21 << 23))
    made = digits_of_quad(x, bits_f32(uint32(uint32(275 << 23) - exponent)))  # 2**(21 - e)
    block, q = uint32(i >> uint32(3)), uint32(i & uint32(7))
    word = uint32(digits + block * 96 + (q & uint32(3)) * 8 + (q >> uint32(2)) * 4)
    store_shared_u32_if(word, made[1], inside)
    store_shared_u32_if(uint32(word + 32), made[2], inside)
    store_shared_u32_if(uint32(word + 64), made[0], inside)
    quantum = bits_f32(uint32(exponent - uint32(21 << 23)))
    finite = largest < uint32(0x7F800000)  # otherwise the whole block becomes NaN
    quantum = select_f32(finite, quantum, bits_f32(uint32(0x7FC00000)))
    store_shared_f32_if(uint32(scales + block * 4), quantum, inside & (q == uint32(0)))
    return made[3]


@inline
def digits_of_quad(x, factor):
    """A quad's digits, lowest first, and the sum of its integers.

    Half of a byte's range is added to each byte, so that it carries as a signed digit does; the
    flipped top bit takes it off again.
    """
    rounding, more = bits_f32(uint32(ROUNDING)), uint32(0x808080 - 0x400000)
    a = uint32(bits_u32(fma(x[0], factor, rounding)) + more)
    b = uint32(bits_u32(fma(x[1], factor, rounding)) + more)
    c = uint32(bits_u32(fma(x[2], factor, rounding)) + more)
    d = uint32(bits_u32(fma(x[3], factor, rounding)) + more)
    one, two = prmt(a, b, uint32(0x5140)), prmt(c, d, uint32(0x5140))
    low, middle = prmt(one, two, uint32(0x5410)), prmt(one, two, uint32(0x7632))
    high = prmt(prmt(a, b, uint32(0x62)), prmt(c, d, uint32(0x62)), uint32(0x5410))
    signs = uint32(0x80808080)
    total = uint32(uint32(a + b + c + d) - uint32(uint32(ROUNDING + 0x808080 - 0x400000) * 4))
    return uint32(low ^ signs), uint32(middle ^ signs), uint32(high ^ signs), total


@inline
def store_half_sums(partial, i, blocks, sums):
    """Write the sums of a block's halves; `partial` is what `store_tile_digits` returned."""
    s = uint32(partial + shuffle_xor_u32(partial, uint32(2)))
    s = uint32(s + shuffle_xor_u32(s, uint32(1)))
    leader = (i < uint32(blocks * 8)) & (uint32(i & uint32(3)) == uint32(0))
    store_shared_f32_if(uint32(sums + (i >> uint32(2)) * 4), s32_to_f32(int32(s)), leader)


@inline
def digits_of_lane(digits, lane):
    """Where a lane finds its words of block 0: digit g % 4 (any, where that is none)."""
    g = uint32(uint32(lane >> uint32(2)) & uint32(3))
    digit = select_u32(g == uint32(3), uint32(0), g)
    return uint32(digits + digit * 32 + uint32(lane & uint32(3)) * 8)


@inline
def masks_of_lane(lane):
    """What a lane keeps of both halves' words, where halves have scales of their own."""
    whole = uint32(0xFFFFFFFF)
    first = lane < uint32(16)
    return select_u32(first, whole, uint32(0)), select_u32(first, uint32(0), whole)


# --- products ------------------------------------------------------------------------------------


@inline
def product_of(upper, lower, x, c):
    """What a lane gets of 16 rows times a block: two columns of row g, two of row g + 8.

    `upper` and `lower`: its words of both rows; `x`: its words of the vector; `c` is added.
    """
    return mma_s8_16x8x32(
        upper[0], lower[0], upper[1], lower[1], x[0], x[1], c[0], c[1], c[2], c[3]
    )


@inline
def tile_product(upper, lower, x):
    """The product of levels."""
    zero = int32(0)
    return product_of(upper, lower, x, (zero, zero, zero, zero))


@inline
def tile_product_of_terms(upper, lower, x):
    """The same of levels in two terms."""
    return product_of(upper[1], lower[1], x, tile_product(upper[0], lower[0], x))


@inline
def block_words(here, block):
    """A lane's words of a block of the vector, out of `digits_of_lane`."""
    return load_shared_u32x2(uint32(here + block * 96))


@inline
def halved(x, masks):
    """The words, each half in the columns that are its own."""
    return uint32(x[0] & masks[0]), uint32(x[1] & masks[1])


@inline
def two_digits(first, second, weight):
    """The sums of two digits as one float: middle + 256 high, or low alone."""
    return s32_to_f32(mad_s32(second, weight, first))


@inline
def of_own_half(values, t):
    """Of a value for each half of a block, that of the half which the lane's columns are of."""
    return select_f32(t < uint32(2), values[0], values[1])


@inline
def least_of_halves(values, first, second):
    """Two minima times the sums of their halves."""
    return fma(values[0], first, values[1] * second)


@inline
def of_lanes(s, even, halves):
    """A row's sum out of those of its four lanes, of which the even ones have the upper digits.

    `halves`: whether the last two lanes are of the blocks' second halves, or have the same again.
    """
    s = select_f32(even, s * float32(256), s)
    s = s + shuffle_xor_f32(s, uint32(1))
    return s + shuffle_xor_f32(s, uint32(2)) if halves else s


@inline
def sum_of_warps(partials, place):
    """The sums that 16 warps have of a row, 64 bytes apart, as a balanced tree."""
    here = uint32(partials + place)
    a = of_four_warps(here)
    b = of_four_warps(uint32(here + 256))
    c = of_four_warps(uint32(here + 512))
    d = of_four_warps(uint32(here + 768))
    return (a + b) + (c + d)


@inline
def of_four_warps(here):
    """Four neighbours of that tree."""
    a, b = load_shared_f32(here), load_shared_f32(uint32(here + 64))
    c, d = load_shared_f32(uint32(here + 128)), load_shared_f32(uint32(here + 192))
    return (a + b) + (c + d)
