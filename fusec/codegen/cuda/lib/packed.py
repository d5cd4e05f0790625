"""Products of two fragments with up to four rows of a step, in the eight columns of one `mma`.

Columns 0 to 3 are products of the first fragment, 4 to 7 of the second: of each the digits are
zeros in the other one's columns, so the second `mma` adds its products beside the first one's. See
`lib.gemm` for fragments and digits.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import uint32

from fusec.codegen.cuda.device import (
    inline,
    mma_s8_16x8x16,
    mma_s8_16x8x32,
    mma_su_16x8x16,
    mma_su_16x8x32,
    select_u32,
)
from fusec.codegen.cuda.lib.gemm import (
    half_signed_digit,
    half_unsigned_digit,
    signed_digit,
    unsigned_digit,
)


@inline
def of_fragments(is_first, x):
    """Three digits as the first fragment is multiplied by them, and as the second one is."""
    zero = uint32(0)
    return (
        (
            (select_u32(is_first, x[0][0], zero), select_u32(is_first, x[0][1], zero)),
            (select_u32(is_first, x[1][0], zero), select_u32(is_first, x[1][1], zero)),
            (select_u32(is_first, x[2][0], zero), select_u32(is_first, x[2][1], zero)),
        ),
        (
            (select_u32(is_first, zero, x[0][0]), select_u32(is_first, zero, x[0][1])),
            (select_u32(is_first, zero, x[1][0]), select_u32(is_first, zero, x[1][1])),
            (select_u32(is_first, zero, x[2][0]), select_u32(is_first, zero, x[2][1])),
        ),
    )


@inline
def add_unsigned(c, b, digit):
    """Products of the second fragment with a digit that has no sign, added to the first one's."""
    return mma_su_16x8x32(b[0], b[1], b[2], b[3], digit[0], digit[1], c[0], c[1], c[2], c[3])


@inline
def add_signed(c, b, digit):
    """The same of a digit that has one."""
    return mma_s8_16x8x32(b[0], b[1], b[2], b[3], digit[0], digit[1], c[0], c[1], c[2], c[3])


@inline
def add_half_unsigned(c, b, digit, half):
    """`add_unsigned` with half of a block."""
    return mma_su_16x8x16(b[2 * half], b[2 * half + 1], digit[half], c[0], c[1], c[2], c[3])


@inline
def add_half_signed(c, b, digit, half):
    """`add_signed` with half of a block."""
    return mma_s8_16x8x16(b[2 * half], b[2 * half + 1], digit[half], c[0], c[1], c[2], c[3])


@inline
def packed_products(a, b, x, y):
    """Products of two fragments with a block of 32: of each digit, of which one is signed."""
    return (
        add_unsigned(unsigned_digit(a, x[0]), b, y[0]),
        add_unsigned(unsigned_digit(a, x[1]), b, y[1]),
        add_signed(signed_digit(a, x[2]), b, y[2]),
    )


@inline
def packed_half_products(a, b, x, y, half):
    """The same with half of a block."""
    return (
        add_half_unsigned(half_unsigned_digit(a, x[0], half), b, y[0], half),
        add_half_unsigned(half_unsigned_digit(a, x[1], half), b, y[1], half),
        add_half_signed(half_signed_digit(a, x[2], half), b, y[2], half),
    )
