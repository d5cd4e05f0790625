"""Tiles of 16 rows times a vector, on the tensor cores (see `fusec.codegen.formats.tiles`).

A lane, 4g + t, has words t of both halves of a span in rows g and g + 8. Of the product it gets
columns 2t and 2t + 1 for these rows. Where a span has one scale, columns 0, 2 and 4 are the
vector's digits, middle, high and low; where halves have one each, the columns are
`middle high low -` of the first half, then the same of the second.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    and_or,
    bits_f32,
    bits_u32,
    fma,
    inline,
    load_shared_f32x4,
    load_shared_u32,
    load_shared_u32x2,
    mad_s32,
    mad_u32,
    max_magnitude,
    max_u32,
    min_u32,
    mma_s8_16x8x32,
    mul_high_u32,
    mul_u32,
    prmt,
    s32_to_f32,
    select_f32,
    select_s32,
    select_u32,
    shuffle_xor_f32,
    shuffle_xor_u32,
    store_shared_f32_if,
    store_shared_u32_if,
    zero_of_lane,
)
from fusec.codegen.cuda.lib.codes import moved, word_lowered
from fusec.codegen.cuda.lib.vectors import only, three_bytes

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

    `prmt` takes the nibbles as they are: bit 3 asks it for the sign. For the second table, which is
    backwards, all bits are flipped. The unit of `prmt` and of logic has most to do in such a
    kernel, so others shift and flip: by multiplications that the compiler cannot see through.
    """
    nothing = zero_of_lane()
    a, c, minus = uint32(a + nothing), uint32(c + nothing), uint32(nothing - uint32(1))
    second = mul_high_u32(q, uint32(1 << 16))
    flipped, other = mad_u32(q, minus, minus), mad_u32(second, minus, minus)
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
def store_tile_digits(x, i, inside, digits, scales):
    """Write quad i, if it is inside, as fixed point; the eight lanes of its block take part.

    Returns the sum of its four integers.
    """
    low, middle, high, quantum, total = fixed23_quad(x)
    block, q = uint32(i >> uint32(3)), uint32(i & uint32(7))
    word = uint32(digits + block * 96 + (q & uint32(3)) * 8 + (q >> uint32(2)) * 4)
    store_shared_u32_if(word, middle, inside)
    store_shared_u32_if(uint32(word + 32), high, inside)
    store_shared_u32_if(uint32(word + 64), low, inside)
    store_shared_f32_if(uint32(scales + block * 4), quantum, inside & (q == uint32(0)))
    return total


@inline
def fixed23_quad(x):
    """A quad in fixed point, made by the eight lanes of its block together.

    Its three digits, lowest first, a byte of each element; the block's quantum, and the sum of the
    quad's integers.
    """
    largest = max_magnitude(max_magnitude(x[0], x[1]), max_magnitude(x[2], x[3]))
    largest = max_magnitude(largest, shuffle_xor_f32(largest, uint32(4)))
    largest = max_magnitude(largest, shuffle_xor_f32(largest, uint32(2)))
    largest = bits_u32(max_magnitude(largest, shuffle_xor_f32(largest, uint32(1))))
    exponent = max_u32(uint32(largest & uint32(0x7F800000)), uint32(21 << 23))
    low, middle, high, total = digits_of_quad(
        x,
        bits_f32(uint32(uint32(275 << 23) - exponent)),  # 2**(21 - e)
    )
    quantum = bits_f32(uint32(exponent - uint32(21 << 23)))
    finite = largest < uint32(0x7F800000)  # otherwise the whole block becomes NaN
    quantum = select_f32(finite, quantum, bits_f32(uint32(0x7FC00000)))
    return low, middle, high, quantum, total


@inline
def digits_of_quad(x, factor):
    """A quad's digits, lowest first, and the sum of its integers.

    Half of a byte's range is added to the lower two, so that they carry as signed digits do; the
    flipped top bit takes it off again.
    """
    rounding, more = bits_f32(uint32(ROUNDING)), uint32(0x8080 - 0x400000)
    a = uint32(bits_u32(fma(x[0], factor, rounding)) + more)
    b = uint32(bits_u32(fma(x[1], factor, rounding)) + more)
    c = uint32(bits_u32(fma(x[2], factor, rounding)) + more)
    d = uint32(bits_u32(fma(x[3], factor, rounding)) + more)
    low, middle, high = three_bytes(a, b, c, d)
    signs = uint32(0x80808080)
    total = uint32(uint32(a + b + c + d) - uint32(uint32(ROUNDING + 0x8080 - 0x400000) * 4))
    return uint32(low ^ signs), uint32(middle ^ signs), high, total


@inline
def store_half_sums(partial, i, inside, sums):
    """Write the sums of a block's halves; `partial` is what `store_tile_digits` returned."""
    s = uint32(partial + shuffle_xor_u32(partial, uint32(2)))
    s = uint32(s + shuffle_xor_u32(s, uint32(1)))
    leader = inside & (uint32(i & uint32(3)) == uint32(0))
    store_shared_f32_if(uint32(sums + (i >> uint32(2)) * 4), s32_to_f32(int32(s)), leader)


@inline
def digits_of_lane(digits, lane, halves):
    """Where a lane finds its words of block 0: of the digit in column g (any, where none is)."""
    g, word = uint32(lane >> uint32(2)), uint32(uint32(lane & uint32(3)) * 8)
    if not halves:
        return uint32(digits + min_u32(uint32(g >> uint32(1)), uint32(2)) * 32 + word)
    digit = uint32(g & uint32(3))
    digit = select_u32(digit == uint32(3), uint32(0), digit)
    return uint32(digits + digit * 32 + word + uint32(g >> uint32(2)) * 4)


@inline
def worth_of_lane(t, halves):
    """What a lane's sum is worth; `two_digits` have that of the middle or the low one."""
    if halves:
        return select_f32(uint32(t & uint32(1)) == uint32(0), float32(256), float32(1))
    upper = select_f32(t == uint32(0), float32(256), float32(65536))
    return select_f32(t < uint32(2), upper, only(t == uint32(2), float32(1)))


@inline
def kept_by_lane(lane):
    """What a lane multiplies its word by, for either half, where halves have scales of their own.

    By multiplications, as in `terms_of_fours`: the unit of logic has most to do.
    """
    first = select_u32(lane < uint32(16), uint32(1), uint32(0))
    return first, uint32(uint32(1) - first)


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
def half_words(here, block, kept):
    """The same of a lane whose column has one half of a block, and zeros for the other."""
    word = load_shared_u32(uint32(here + block * 96))
    return mul_u32(word, kept[0]), mul_u32(word, kept[1])


@inline
def two_digits(first, second, t):
    """The sums of two digits as one float: middle + 256 high, or low alone."""
    weight = select_s32(uint32(t & uint32(1)) == uint32(0), int32(256), int32(0))
    return s32_to_f32(mad_s32(second, weight, first))


@inline
def least_of_halves(values, first, second):
    """Two minima times the sums of their halves."""
    return fma(values[0], first, values[1] * second)


@inline
def of_lanes(s, worth, less):
    """A row's sum out of those of its four lanes, of which each takes off what it has found."""
    s = fma(s, worth, -less)
    s = s + shuffle_xor_f32(s, uint32(1))
    return s + shuffle_xor_f32(s, uint32(2))


@inline
def sum_of_warps(partials, place):
    """The sums that 16 warps have of a row, neighbours in memory, as a balanced tree."""
    here = uint32(partials + place)
    a = of_four(load_shared_f32x4(here))
    b = of_four(load_shared_f32x4(uint32(here + 16)))
    c = of_four(load_shared_f32x4(uint32(here + 32)))
    d = of_four(load_shared_f32x4(uint32(here + 48)))
    return (a + b) + (c + d)


@inline
def of_four(s):
    """Four neighbours of that tree."""
    return (s[0] + s[1]) + (s[2] + s[3])
