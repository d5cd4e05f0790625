"""Levels of a span of 32 weights out of the planes that `fusec.codegen.formats.coding` packs.

Levels are two halves of four words, a byte each: word t of half h has elements 16h + 4t and on.
`place` is the bit of the byte that a plane's lowest bit goes to.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    and_or,
    bits_f32,
    inline,
    max_s32,
    prmt,
    s32_to_f32,
    select_f32,
    zero_of_lane,
)


@inline
def moved(bits, at, place):
    """Bit `at` of each byte brought to `place`; the bits around it must be masked off."""
    if place >= at:
        return uint32(bits << uint32(place - at))
    return uint32(bits >> uint32(at - place))


@inline
def from_fours(q, place):
    """Nibbles: the low ones are the first half, the high ones the second."""
    mask = uint32(0x0F0F0F0F << place)
    return (
        (
            uint32(moved(q[0], 0, place) & mask),
            uint32(moved(q[1], 0, place) & mask),
            uint32(moved(q[2], 0, place) & mask),
            uint32(moved(q[3], 0, place) & mask),
        ),
        (
            uint32(moved(q[0], 4, place) & mask),
            uint32(moved(q[1], 4, place) & mask),
            uint32(moved(q[2], 4, place) & mask),
            uint32(moved(q[3], 4, place) & mask),
        ),
    )


@inline
def half_of_twos(word, place):
    """Bits 2t and 2t + 1 of each byte belong to word t."""
    mask = uint32(0x03030303 << place)
    return (
        uint32(moved(word, 0, place) & mask),
        uint32(moved(word, 2, place) & mask),
        uint32(moved(word, 4, place) & mask),
        uint32(moved(word, 6, place) & mask),
    )


@inline
def from_twos(pairs, place):
    """Two bits each, a word for each half."""
    return half_of_twos(pairs[0], place), half_of_twos(pairs[1], place)


@inline
def half_with_twos(levels, word, place):
    """A half's levels and two more bits of each."""
    mask = uint32(0x03030303 << place)
    return (
        and_or(moved(word, 0, place), mask, levels[0]),
        and_or(moved(word, 2, place), mask, levels[1]),
        and_or(moved(word, 4, place), mask, levels[2]),
        and_or(moved(word, 6, place), mask, levels[3]),
    )


@inline
def plus_twos(levels, pairs, place):
    """Two more bits of each level."""
    return half_with_twos(levels[0], pairs[0], place), half_with_twos(levels[1], pairs[1], place)


@inline
def plus_ones(levels, bits, place):
    """One more bit of each level: bit t of each byte belongs to word t of all eight."""
    mask = uint32(0x01010101 << place)
    low, high = levels
    return (
        (
            and_or(moved(bits, 0, place), mask, low[0]),
            and_or(moved(bits, 1, place), mask, low[1]),
            and_or(moved(bits, 2, place), mask, low[2]),
            and_or(moved(bits, 3, place), mask, low[3]),
        ),
        (
            and_or(moved(bits, 4, place), mask, high[0]),
            and_or(moved(bits, 5, place), mask, high[1]),
            and_or(moved(bits, 6, place), mask, high[2]),
            and_or(moved(bits, 7, place), mask, high[3]),
        ),
    )


@inline
def word_lowered(word, offset):
    """Every byte less an offset of at most 128; no byte borrows from its neighbour."""
    return uint32(uint32(word + uint32(0x01010101 * (128 - offset))) ^ uint32(0x80808080))


@inline
def half_lowered(words, offset):
    """Four words' bytes less an offset."""
    return (
        word_lowered(words[0], offset),
        word_lowered(words[1], offset),
        word_lowered(words[2], offset),
        word_lowered(words[3], offset),
    )


@inline
def lowered(levels, offset):
    """Levels less an offset; none may exceed it by 128."""
    return half_lowered(levels[0], offset), half_lowered(levels[1], offset)


@inline
def lookup_four(selectors, flags, a, b, c, d):
    """Four of 16 bytes: bits 0-2 of the low nibbles of `selectors`, bit 3 in `flags`."""
    return prmt(prmt(a, b, selectors), prmt(c, d, selectors), flags)


@inline
def lookup_eight(word, a, b, c, d):
    """The bytes of eight indices: low half of the word, high half."""
    selectors = uint32(word & uint32(0x77777777))
    flags = and_or(uint32(word >> uint32(1)), uint32(0x44444444), uint32(0x32103210))
    return (
        lookup_four(selectors, flags, a, b, c, d),
        lookup_four(uint32(selectors >> uint32(16)), uint32(flags >> uint32(16)), a, b, c, d),
    )


@inline
def lookup_fours(q, a, b, c, d):
    """Levels out of a table of 16 in four words, by nibbles in the order of `coding.Table`."""
    nothing = zero_of_lane()
    a, b = uint32(a + nothing), uint32(b + nothing)
    c, d = uint32(c + nothing), uint32(d + nothing)
    s, t = lookup_eight(q[0], a, b, c, d), lookup_eight(q[1], a, b, c, d)
    u, v = lookup_eight(q[2], a, b, c, d), lookup_eight(q[3], a, b, c, d)
    return (s[0], t[0], u[0], v[0]), (s[1], t[1], u[1], v[1])


@inline
def unsigned_bits(word, shift, count):
    """`count` bits of a word from bit `shift` on, as a float."""
    return s32_to_f32(int32(uint32(word >> uint32(shift)) & uint32((1 << count) - 1)))


@inline
def of_half(values, k):
    """What belongs to quad k, of a value for each half."""
    return select_f32(k < uint32(4), values[0], values[1])


@inline
def less(quad, least):
    """A quad less a minimum."""
    return quad[0] - least, quad[1] - least, quad[2] - least, quad[3] - least


@inline
def e8m0_half(e):
    """2 ** (e - 128): the bits of a normal number, or of the subnormal ones of e = 0 and 1."""
    normal, subnormal = int32(uint32(e - 1) << uint32(23)), int32(uint32(e + 1) << uint32(21))
    return bits_f32(uint32(max_s32(normal, subnormal)))


@inline
def half_e4m3(word, n):
    """Half of the e4m3 float without a sign in byte n: an f32 with 119 less in its exponent."""
    bits = uint32(uint32(word >> uint32(8 * n)) & uint32(0xFF))
    return bits_f32(uint32(bits << uint32(20))) * float32(2.0**119)


@inline
def next_digits(fractions):
    """The first base-3 digits of two fractions of 256 in halves of a word, and what is left."""
    tripled = uint32(fractions * uint32(3))
    return uint32(uint32(tripled >> uint32(8)) & uint32(0x00030003)), uint32(
        tripled & uint32(0x00FF00FF)
    )


@inline
def trits(fours, pairs, single):
    """Levels of TQ1_0: five digits of four bytes, five of two, two of one."""
    even, odd = (
        uint32(fours & uint32(0x00FF00FF)),
        uint32(uint32(fours >> uint32(8)) & uint32(0x00FF00FF)),
    )
    a, even = next_digits(even)
    b, odd = next_digits(odd)
    first = uint32(a | uint32(b << uint32(8)))
    a, even = next_digits(even)
    b, odd = next_digits(odd)
    second = uint32(a | uint32(b << uint32(8)))
    a, even = next_digits(even)
    b, odd = next_digits(odd)
    third = uint32(a | uint32(b << uint32(8)))
    a, even = next_digits(even)
    b, odd = next_digits(odd)
    fourth = uint32(a | uint32(b << uint32(8)))
    a, even = next_digits(even)
    b, odd = next_digits(odd)
    fifth = uint32(a | uint32(b << uint32(8)))
    spread = uint32(
        uint32(pairs & uint32(0xFF)) | uint32(uint32(pairs & uint32(0xFF00)) << uint32(8))
    )
    a, spread = next_digits(spread)
    b, spread = next_digits(spread)
    sixth = prmt(a, b, uint32(0x6420))
    a, spread = next_digits(spread)
    b, spread = next_digits(spread)
    seventh = prmt(a, b, uint32(0x6420))
    a, spread = next_digits(spread)
    b, rest = next_digits(single)
    c, rest = next_digits(rest)
    eighth = prmt(a, uint32(b | uint32(c << uint32(8))), uint32(0x5420))
    return lowered(((first, second, third, fourth), (fifth, sixth, seventh, eighth)), 1)
