"""Products of weights' levels with activations in fixed point, and levels as floats.

A block's levels are two halves of four words, a signed byte each; its activations three digits,
lowest first, each in such halves.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    bits_f32,
    dp4a_ss,
    dp4a_su,
    fma,
    inline,
    mad_s32,
    s32_to_f32,
    select_u32,
)

# A sum over a digit is less than 2**21. Added up from the bits of 1.5 * 2**23 on, where floats are
# one apart, it has the bits of 1.5 * 2**23 plus the sum: a float, without a conversion. What the
# lowest digit's sum has too much so, 256 times the middle one's has too little.
LOW = int32(0x4B400000)
MIDDLE = int32(-49152)  # -1.5 * 2**23 / 256


@inline
def four_signed(levels, digit, c):
    """Four words of signed bytes times signed ones."""
    c = dp4a_ss(levels[1], digit[1], dp4a_ss(levels[0], digit[0], c))
    return dp4a_ss(levels[3], digit[3], dp4a_ss(levels[2], digit[2], c))


@inline
def four_mixed(levels, digit, c):
    """Four words of signed bytes times unsigned ones."""
    c = dp4a_su(levels[1], digit[1], dp4a_su(levels[0], digit[0], c))
    return dp4a_su(levels[3], digit[3], dp4a_su(levels[2], digit[2], c))


@inline
def from_digits(low, middle, high):
    """Sums over three digits as one float, of which the lower two begin at `LOW` and `MIDDLE`.

    256 high + middle is exact before it is rounded.
    """
    return fma(s32_to_f32(mad_s32(high, int32(256), middle)), float32(256), bits_f32(uint32(low)))


@inline
def dot(levels, x):
    """A block's levels times its activations, in units of both scales."""
    low = four_mixed(levels[1], x[0][1], four_mixed(levels[0], x[0][0], LOW))
    middle = four_mixed(levels[1], x[1][1], four_mixed(levels[0], x[1][0], MIDDLE))
    high = four_signed(levels[1], x[2][1], four_signed(levels[0], x[2][0], int32(0)))
    return from_digits(low, middle, high)


@inline
def dot_low(levels, x):
    """`dot` of the first 16."""
    low, middle = four_mixed(levels[0], x[0][0], LOW), four_mixed(levels[0], x[1][0], MIDDLE)
    return from_digits(low, middle, four_signed(levels[0], x[2][0], int32(0)))


@inline
def dot_high(levels, x):
    """`dot` of the last 16."""
    low, middle = four_mixed(levels[1], x[0][1], LOW), four_mixed(levels[1], x[1][1], MIDDLE)
    return from_digits(low, middle, four_signed(levels[1], x[2][1], int32(0)))


@inline
def all_words(levels):
    """A word that depends on every one of a block's levels."""
    low, high = levels
    return uint32(low[0] ^ low[1] ^ low[2] ^ low[3] ^ high[0] ^ high[1] ^ high[2] ^ high[3])


@inline
def sum_low(x):
    """The sum of the first 16 activations of a block."""
    one = uint32(0x01010101)
    return dot_low(((one, one, one, one), (one, one, one, one)), x)


@inline
def sum_high(x):
    """The sum of the last 16."""
    one = uint32(0x01010101)
    return dot_high(((one, one, one, one), (one, one, one, one)), x)


@inline
def quad_of(levels, k):
    """The four levels of quad k of a block, as floats."""
    word = select_u32(k == uint32(1), levels[0][1], levels[0][0])
    word = select_u32(k == uint32(2), levels[0][2], word)
    word = select_u32(k == uint32(3), levels[0][3], word)
    word = select_u32(k == uint32(4), levels[1][0], word)
    word = select_u32(k == uint32(5), levels[1][1], word)
    word = select_u32(k == uint32(6), levels[1][2], word)
    word = select_u32(k == uint32(7), levels[1][3], word)
    return byte(word, 0), byte(word, 1), byte(word, 2), byte(word, 3)


@inline
def times(scale, x):
    """A quad times a scale."""
    return scale * x[0], scale * x[1], scale * x[2], scale * x[3]


@inline
def byte(word, n):
    """Signed byte n of a word as a float."""
    return s32_to_f32(int32(int32(uint32(word << uint32(24 - 8 * n))) >> 24))
