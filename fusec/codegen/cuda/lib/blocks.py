"""Quantised weights as `cuda_repack` of each format lays them out.

`fetch_F` loads what a lane needs of one block of 32; `levels_F` gives its integers as two halves of
four words, a byte each, in order; `scale_F` the factor that makes weights of them, and `min_F` what
is taken off. `rows` and `blocks` are the matrix's size.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    and_or,
    at,
    half_to_f32,
    high_half_to_f32,
    inline,
    load_weight_u8,
    load_weight_u16,
    load_weight_u32,
    load_weight_v2,
    load_weight_v4,
    prmt,
    s32_to_f32,
    select_f32,
)
from fusec.codegen.cuda.lib.products import byte, quad_of, times


@inline
def place(rows, blocks, row, block, nbytes, before):
    """Offset of a block's `nbytes` in the part that `before` bytes a block precede."""
    return uint32(rows * blocks * before + (row * blocks + block) * nbytes)


# --- q8_0 -----------------------------------------------------------------------------------------


@inline
def fetch_q8_0(w, rows, blocks, row, block):
    """Both halves of the levels, and the scale."""
    low = uint32((row * (2 * blocks) + block) * 16)
    return (
        load_weight_v4(at(w, low)),
        load_weight_v4(at(w, uint32(low + blocks * 16))),
        load_weight_u16(at(w, place(rows, blocks, row, block, 2, 32))),
    )


@inline
def levels_q8_0(w):
    """As they are."""
    return w[0], w[1]


@inline
def scale_q8_0(w):
    """d."""
    return half_to_f32(w[2])


@inline
def decode_q8_0(w, k):
    """The weights of quad k."""
    return times(scale_q8_0(w), quad_of(levels_q8_0(w), k))


# --- iq4_nl and iq4_xs ----------------------------------------------------------------------------


@inline
def lookup_four(selectors, flags):
    """Four of the 16 levels: bits 0-2 of the low nibbles of `selectors`, bit 3 in `flags`."""
    low = prmt(uint32(0xBFAD9881), uint32(0xF6EADDCF), selectors)
    high = prmt(uint32(0x26190D01), uint32(0x71594535), selectors)
    return prmt(low, high, flags)


@inline
def lookup(word):
    """The levels of eight indices: low half of the word, high half."""
    selectors = uint32(word & uint32(0x77777777))
    flags = and_or(uint32(word >> uint32(1)), uint32(0x44444444), uint32(0x32103210))
    return (
        lookup_four(selectors, flags),
        lookup_four(uint32(selectors >> uint32(16)), uint32(flags >> uint32(16))),
    )


@inline
def lookup_block(words):
    """Levels of 32 indices; word t holds those of 4t.. in its low half, of 16 + 4t.. above."""
    a, b, c, d = lookup(words[0]), lookup(words[1]), lookup(words[2]), lookup(words[3])
    return (a[0], b[0], c[0], d[0]), (a[1], b[1], c[1], d[1])


@inline
def fetch_iq4_nl(w, rows, blocks, row, block):
    """The indices and the scale."""
    return (
        load_weight_v4(at(w, place(rows, blocks, row, block, 16, 0))),
        load_weight_u16(at(w, place(rows, blocks, row, block, 2, 16))),
    )


@inline
def levels_iq4_nl(w):
    """By table."""
    return lookup_block(w[0])


@inline
def scale_iq4_nl(w):
    """d."""
    return half_to_f32(w[1])


@inline
def decode_iq4_nl(w, k):
    """The weights of quad k."""
    return times(scale_iq4_nl(w), quad_of(levels_iq4_nl(w), k))


@inline
def fetch_iq4_xs(w, rows, blocks, row, block):
    """The indices, the block's scale, and the superblock's."""
    superblock = uint32(rows * blocks * 17 + (row * (blocks // 8) + (block >> uint32(3))) * 2)
    return (
        load_weight_v4(at(w, place(rows, blocks, row, block, 16, 0))),
        load_weight_u8(at(w, place(rows, blocks, row, block, 1, 16))),
        load_weight_u16(at(w, superblock)),
    )


@inline
def levels_iq4_xs(w):
    """By table."""
    return lookup_block(w[0])


@inline
def scale_iq4_xs(w):
    """d times the block's scale, exactly."""
    return half_to_f32(w[2]) * byte(w[1], 0)


@inline
def decode_iq4_xs(w, k):
    """The weights of quad k."""
    return times(scale_iq4_xs(w), quad_of(levels_iq4_xs(w), k))


# --- q5_k -----------------------------------------------------------------------------------------


@inline
def fetch_q5_k(w, rows, blocks, row, block):
    """Low nibbles, fifth bits, scale and minimum, and the superblock's d and dmin."""
    superblock = uint32(rows * blocks * 22 + (row * (blocks // 8) + (block >> uint32(3))) * 4)
    return (
        load_weight_v4(at(w, place(rows, blocks, row, block, 16, 0))),
        load_weight_u32(at(w, place(rows, blocks, row, block, 4, 16))),
        load_weight_u16(at(w, place(rows, blocks, row, block, 2, 20))),
        load_weight_u32(at(w, superblock)),
    )


@inline
def fifth_low(word, bits, t):
    """Elements 4t.. of the first half: their fifth bits are bit t of each byte."""
    nibbles = uint32(word & uint32(0x0F0F0F0F))
    return and_or(uint32(bits << uint32(4 - t)), uint32(0x10101010), nibbles)


@inline
def fifth_high(word, bits, t):
    """Elements 16 + 4t..: bit t + 4."""
    nibbles = uint32(uint32(word >> uint32(4)) & uint32(0x0F0F0F0F))
    return and_or(uint32(bits >> uint32(t)), uint32(0x10101010), nibbles)


@inline
def levels_q5_k(w):
    """Nibble and fifth bit."""
    q, bits = w[0], w[1]
    return (
        (
            fifth_low(q[0], bits, 0),
            fifth_low(q[1], bits, 1),
            fifth_low(q[2], bits, 2),
            fifth_low(q[3], bits, 3),
        ),
        (
            fifth_high(q[0], bits, 0),
            fifth_high(q[1], bits, 1),
            fifth_high(q[2], bits, 2),
            fifth_high(q[3], bits, 3),
        ),
    )


@inline
def scale_q5_k(w):
    """d times the block's scale, exactly."""
    return half_to_f32(w[3]) * s32_to_f32(int32(w[2] & uint32(255)))


@inline
def min_q5_k(w):
    """dmin times the block's minimum, exactly."""
    return high_half_to_f32(w[3]) * s32_to_f32(int32(w[2] >> uint32(8)))


@inline
def decode_q5_k(w, k):
    """The weights of quad k."""
    a, b, c, d = times(scale_q5_k(w), quad_of(levels_q5_k(w), k))
    least = min_q5_k(w)
    return a - least, b - least, c - least, d - least


# --- q6_k -----------------------------------------------------------------------------------------


@inline
def fetch_q6_k(w, rows, blocks, row, block):
    """Low nibbles, upper bits, both groups' scales, and the superblock's."""
    superblock = uint32(rows * blocks * 26 + (row * (blocks // 8) + (block >> uint32(3))) * 2)
    return (
        load_weight_v4(at(w, place(rows, blocks, row, block, 16, 0))),
        load_weight_v2(at(w, place(rows, blocks, row, block, 8, 16))),
        load_weight_u16(at(w, place(rows, blocks, row, block, 2, 24))),
        load_weight_u16(at(w, superblock)),
    )


@inline
def upper_two(nibbles, bits, t):
    """Four times the signed level: nibble in bits 2-5, stored upper bits in 6-7."""
    above = uint32(uint32(bits << uint32(6 - 2 * t)) & uint32(0xC0C0C0C0))
    return and_or(nibbles, uint32(0x3C3C3C3C), above)


@inline
def levels_q6_k(w):
    """Four times the level, which fills the byte and needs no sign extension."""
    q, bits = w[0], w[1]
    return (
        (
            upper_two(uint32(q[0] << uint32(2)), bits[0], 0),
            upper_two(uint32(q[1] << uint32(2)), bits[0], 1),
            upper_two(uint32(q[2] << uint32(2)), bits[0], 2),
            upper_two(uint32(q[3] << uint32(2)), bits[0], 3),
        ),
        (
            upper_two(uint32(q[0] >> uint32(2)), bits[1], 0),
            upper_two(uint32(q[1] >> uint32(2)), bits[1], 1),
            upper_two(uint32(q[2] >> uint32(2)), bits[1], 2),
            upper_two(uint32(q[3] >> uint32(2)), bits[1], 3),
        ),
    )


@inline
def scale_q6_k(w):
    """A quarter of d times the scale of each half, exactly."""
    d = half_to_f32(w[3]) * float32(0.25)
    return d * byte(w[2], 0), d * byte(w[2], 1)


@inline
def decode_q6_k(w, k):
    """The weights of quad k."""
    low, high = scale_q6_k(w)
    return times(select_f32(k < uint32(4), low, high), quad_of(levels_q6_k(w), k))
