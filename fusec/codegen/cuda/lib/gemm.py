"""Products of tiles: 16 rows of a matrix times eight rows of the step, on the tensor cores.

A lane, 4g + t, has words t of both halves of a block of 32 levels in rows g and g + 8, and words t
of both halves of each digit of the step's row g. Of a product it gets rows g and g + 8, of the
step's rows 2t and 2t + 1.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    bits_f32,
    fma,
    inline,
    load_shared_u32x2,
    mma_s8_16x8x16,
    mma_s8_16x8x32,
    mma_su_16x8x16,
    mma_su_16x8x32,
    store_shared_f32,
    store_shared_u32x4,
)
from fusec.codegen.cuda.lib.products import LOW, MIDDLE
from fusec.codegen.cuda.lib.tiles import least_of_halves

# Sums over the two lower digits begin where those of `lib.products` do, the highest one's at
# 1.5 * 2**31, where floats are 256 apart: it has the bits of 1.5 * 2**31 plus 256 times the sum.
# So all three are floats without a conversion, and a subtraction takes off what is too much.
BIASED = LOW
BIASED_BY_256 = int32(0x4F400000)


@inline
def unbiased(word):
    """A sum as a float."""
    return bits_f32(uint32(word)) - float32(12582912.0)


@inline
def of_digits(low, middle, high):
    """Sums over three digits as one float, which is rounded where `from_digits` rounds it."""
    too_much = 3221225472.0 + 12582912.0 - float(MIDDLE)  # what is left of high is exact
    upper = bits_f32(uint32(high)) - float32(too_much)
    return fma(upper + bits_f32(uint32(middle)), float32(256), bits_f32(uint32(low)))


# What lanes multiply of 16 rows of levels lies lane by lane, 16 bytes each, so that no register has
# to be moved. Lanes are in an order that keeps apart the banks of those that load together, and of
# those that store together.


@inline
def place_of_lane(lane):
    """Where a lane's levels of 16 rows are."""
    return uint32(uint32(lane ^ uint32(uint32(lane >> uint32(3)) & uint32(3))) * 16)


@inline
def store_blocks(upper, lower, place, row):
    """Levels of a block of rows g and g + 8; `row`, whose remainder by 8 is g, is at place."""
    g = uint32(row & uint32(7))
    here = uint32(place - g * 32)
    (a, b), (c, d) = upper, lower
    store_shared_u32x4(uint32(here + place_of_lane(uint32(g * 4))), a[0], c[0], b[0], d[0])
    store_shared_u32x4(uint32(here + place_of_lane(uint32(g * 4 + 1))), a[1], c[1], b[1], d[1])
    store_shared_u32x4(uint32(here + place_of_lane(uint32(g * 4 + 2))), a[2], c[2], b[2], d[2])
    store_shared_u32x4(uint32(here + place_of_lane(uint32(g * 4 + 3))), a[3], c[3], b[3], d[3])


@inline
def load_three(place):
    """A lane's words of the three digits, lowest first."""
    return (
        load_shared_u32x2(place),
        load_shared_u32x2(uint32(place + 256)),
        load_shared_u32x2(uint32(place + 512)),
    )


@inline
def unsigned_digit(a, digit):
    """A tile's products with a block of 32 of a digit that has no sign: four sums."""
    c = BIASED
    return mma_su_16x8x32(a[0], a[1], a[2], a[3], digit[0], digit[1], c, c, c, c)


@inline
def signed_digit(a, digit, c=BIASED):
    """The same of a digit that has one, from c on."""
    return mma_s8_16x8x32(a[0], a[1], a[2], a[3], digit[0], digit[1], c, c, c, c)


@inline
def half_unsigned_digit(a, digit, half):
    """`unsigned_digit` with half of a block."""
    c = BIASED
    return mma_su_16x8x16(a[2 * half], a[2 * half + 1], digit[half], c, c, c, c)


@inline
def half_signed_digit(a, digit, half, c=BIASED):
    """`signed_digit` with half of a block."""
    return mma_s8_16x8x16(a[2 * half], a[2 * half + 1], digit[half], c, c, c, c)


@inline
def products(a, x):
    """A tile's products with a block of 32: of each digit, of which one is signed, four sums."""
    high = signed_digit(a, x[2], BIASED_BY_256)
    return unsigned_digit(a, x[0]), unsigned_digit(a, x[1]), high


@inline
def half_products(a, x, half):
    """The same with half of a block."""
    return (
        half_unsigned_digit(a, x[0], half),
        half_unsigned_digit(a, x[1], half),
        half_signed_digit(a, x[2], half, BIASED_BY_256),
    )


@inline
def joined(sums):
    """Four sums, out of those with each digit."""
    low, middle, high = sums
    return (
        of_digits(low[0], middle[0], high[0]),
        of_digits(low[1], middle[1], high[1]),
        of_digits(low[2], middle[2], high[2]),
        of_digits(low[3], middle[3], high[3]),
    )


@inline
def add_scaled(s, product, upper, lower, first, second):
    """Four sums, with products added: scales of rows g and g + 8, and of the step's two rows."""
    return (
        fma(product[0], upper * first, s[0]),
        fma(product[1], upper * second, s[1]),
        fma(product[2], lower * first, s[2]),
        fma(product[3], lower * second, s[3]),
    )


@inline
def less_minima(s, upper, lower, first, second, one, two):
    """Four sums less minima times the blocks' sums `one` and `two`, and their units."""
    return (
        fma(one, -upper * first, s[0]),
        fma(two, -upper * second, s[1]),
        fma(one, -lower * first, s[2]),
        fma(two, -lower * second, s[3]),
    )


# --- sums of tiles: a thread has what lanes have in `lib.tiles`, operation by operation ----------


@inline
def signed_products(a, x):
    """`products` where all three digits are signed."""
    return signed_digit(a, x[0]), signed_digit(a, x[1]), signed_digit(a, x[2])


@inline
def half_signed_products(a, x, half):
    """The same with half of a block."""
    return (
        half_signed_digit(a, x[0], half),
        half_signed_digit(a, x[1], half),
        half_signed_digit(a, x[2], half),
    )


@inline
def floats(words):
    """Four sums over a digit."""
    return unbiased(words[0]), unbiased(words[1]), unbiased(words[2]), unbiased(words[3])


@inline
def two_floats(middle, high):
    """Four sums over the upper two digits, each as one float, rounded once: see `two_digits`."""
    place, a, b = float32(256), floats(middle), floats(high)
    return (
        fma(b[0], place, a[0]),
        fma(b[1], place, a[1]),
        fma(b[2], place, a[2]),
        fma(b[3], place, a[3]),
    )


@inline
def scales_of(upper, lower, first, second):
    """Scales of rows g and g + 8 times those of the step's two rows."""
    return upper * first, upper * second, lower * first, lower * second


@inline
def add_times(s, product, scale):
    """Four sums, with products times scales added."""
    return (
        fma(product[0], scale[0], s[0]),
        fma(product[1], scale[1], s[1]),
        fma(product[2], scale[2], s[2]),
        fma(product[3], scale[3], s[3]),
    )


@inline
def add_minima(less, upper, lower, first, second):
    """Sums of minima; `first` and `second`: a quantum and the sum of a block."""
    return (
        fma(upper * first[1], first[0], less[0]),
        fma(upper * second[1], second[0], less[1]),
        fma(lower * first[1], first[0], less[2]),
        fma(lower * second[1], second[0], less[3]),
    )


@inline
def add_half_minima(less, upper, lower, first, second):
    """The same of two minima each, and the sums of a block's halves behind its own."""
    return (
        fma(least_of_halves(upper, first[2], first[3]), first[0], less[0]),
        fma(least_of_halves(upper, second[2], second[3]), second[0], less[1]),
        fma(least_of_halves(lower, first[2], first[3]), first[0], less[2]),
        fma(least_of_halves(lower, second[2], second[3]), second[0], less[3]),
    )


@inline
def of_lane(s, worth, less):
    """What a lane has at a row's end: see `of_lanes`."""
    return (
        fma(s[0], worth, -less[0]),
        fma(s[1], worth, -less[1]),
        fma(s[2], worth, -less[2]),
        fma(s[3], worth, -less[3]),
    )


# --- both ----------------------------------------------------------------------------------------


@inline
def add_four(a, b):
    """Four sums."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@inline
def store_four(place, row, s):
    """A lane's sums in shared memory; a row of the step takes `row` bytes."""
    store_shared_f32(place, s[0])
    store_shared_f32(uint32(place + row), s[1])
    store_shared_f32(uint32(place + 32), s[2])
    store_shared_f32(uint32(place + 32 + row), s[3])
