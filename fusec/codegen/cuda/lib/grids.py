"""Levels out of grids: words of a table that select bytes, and signs.

`fusec.codegen.formats.grids` lays out tables, indices and signs. Of a word of the table, the four
low nibbles select the four bytes of one word of levels and the four above those of the next.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import int32, uint32

from fusec.codegen.cuda.device import (
    at,
    inline,
    load_table_u32,
    prmt,
    s32_to_f32,
    select_u32,
)


@inline
def row_of(table, index, a, b):
    """Eight levels, two words: `a` and `b` hold the bytes that occur."""
    selectors = load_table_u32(at(table, index))
    return prmt(a, b, selectors), prmt(a, b, uint32(selectors >> uint32(16)))


@inline
def by_eights(table, indices, a, b):
    """Levels of four rows of eight."""
    s, t = row_of(table, indices[0], a, b), row_of(table, indices[1], a, b)
    u, v = row_of(table, indices[2], a, b), row_of(table, indices[3], a, b)
    return (s[0], s[1], t[0], t[1]), (u[0], u[1], v[0], v[1])


@inline
def four_of(table, index, a, b):
    """Four levels, one word."""
    return prmt(a, b, load_table_u32(at(table, index)))


@inline
def half_by_fours(table, indices, a, b):
    """Levels of four rows of four."""
    return (
        four_of(table, indices[0], a, b),
        four_of(table, indices[1], a, b),
        four_of(table, indices[2], a, b),
        four_of(table, indices[3], a, b),
    )


@inline
def by_fours(table, low, high, a, b):
    """Levels of eight rows of four, their indices in two tuples."""
    return half_by_fours(table, low, a, b), half_by_fours(table, high, a, b)


@inline
def bytes_of(word):
    """A word's four bytes, lowest first."""
    return (
        uint32(word & uint32(255)),
        uint32(uint32(word >> uint32(8)) & uint32(255)),
        uint32(uint32(word >> uint32(16)) & uint32(255)),
        uint32(word >> uint32(24)),
    )


@inline
def with_high(low, high, start, step, count):
    """Four bytes with `count` bits above each: bits `start`, `start + step`, ... of `high`."""
    mask = uint32((1 << count) - 1)
    return (
        uint32(low[0] | uint32(uint32(uint32(high >> uint32(start)) & mask) << uint32(8))),
        uint32(low[1] | uint32(uint32(uint32(high >> uint32(start + step)) & mask) << uint32(8))),
        uint32(
            low[2] | uint32(uint32(uint32(high >> uint32(start + 2 * step)) & mask) << uint32(8))
        ),
        uint32(
            low[3] | uint32(uint32(uint32(high >> uint32(start + 3 * step)) & mask) << uint32(8))
        ),
    )


@inline
def even_signs(word):
    """All 32 signs where every eight have an even number of minuses and the last is not stored.

    Bit t of byte j is the sign of element 4t + j, so the stored word lacks bits 1, 3, 5 and 7 of
    byte 3, and has others in their place.
    """
    kept = uint32(word & uint32(0x55FFFFFF))
    folded = uint32(kept ^ uint32(kept >> uint32(16)))
    folded = uint32(folded ^ uint32(folded >> uint32(8)))
    odd = uint32(uint32(folded ^ uint32(folded >> uint32(1))) & uint32(0x55))
    return uint32(kept | uint32(odd << uint32(25)))


@inline
def negated(word, signs, t):
    """Bytes negated where bit t of the signs' bytes is set; none may be zero."""
    minus = prmt(uint32(signs << uint32(7 - t)), uint32(0), uint32(0xBA98))
    return uint32(uint32(word ^ minus) + uint32(minus & uint32(0x01010101)))


@inline
def signed(levels, signs):
    """Levels with their signs."""
    low, high = levels
    return (
        (
            negated(low[0], signs, 0),
            negated(low[1], signs, 1),
            negated(low[2], signs, 2),
            negated(low[3], signs, 3),
        ),
        (
            negated(high[0], signs, 4),
            negated(high[1], signs, 5),
            negated(high[2], signs, 6),
            negated(high[3], signs, 7),
        ),
    )


@inline
def spare_number(word):
    """The number whose bits are in the places of the signs that `even_signs` restores."""
    x = uint32(uint32(word >> uint32(25)) & uint32(0x55))
    x = uint32(uint32(x | uint32(x >> uint32(1))) & uint32(0x33))
    return s32_to_f32(int32(uint32(x | uint32(x >> uint32(2))) & uint32(0x0F)))


@inline
def by_moved_eights(table, indices, nibbles, up, down):
    """Levels of four rows of eight; bit 3 of each nibble says which bytes its row selects."""
    zero = uint32(0)
    s = row_of(table, indices[0], moved_values(nibbles, 3, up, down), zero)
    t = row_of(table, indices[1], moved_values(nibbles, 7, up, down), zero)
    u = row_of(table, indices[2], moved_values(nibbles, 11, up, down), zero)
    v = row_of(table, indices[3], moved_values(nibbles, 15, up, down), zero)
    return (s[0], s[1], t[0], t[1]), (u[0], u[1], v[0], v[1])


@inline
def moved_values(nibbles, bit, up, down):
    """The values moved down where that bit is set, else up."""
    return select_u32(uint32(nibbles & uint32(1 << bit)) == uint32(0), up, down)
