"""Plain floats as `cuda_repack` lays them out: rows of 16-byte chunks of one or two quads."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import uint32

from fusec.codegen.cuda.device import (
    bits_f32,
    fma,
    half_to_f32,
    high_half_to_f32,
    inline,
    load_shared_f32x4,
    select_f32,
)
from fusec.codegen.cuda.lib.vectors import only_quad


@inline
def quad_of_f32(w):
    """Four words as they are."""
    return bits_f32(w[0]), bits_f32(w[1]), bits_f32(w[2]), bits_f32(w[3])


@inline
def quad_of_f16(a, b):
    """Four halves in two words."""
    return half_to_f32(a), high_half_to_f32(a), half_to_f32(b), high_half_to_f32(b)


@inline
def upper(word):
    """The float whose upper half is the word's upper half."""
    return bits_f32(uint32(word & uint32(0xFFFF0000)))


@inline
def lower(word):
    """The float whose upper half is the word's lower half."""
    return bits_f32(uint32(word << uint32(16)))


@inline
def quad_of_bf16(a, b):
    """Four truncated floats in two words."""
    return lower(a), upper(a), lower(b), upper(b)


@inline
def add_products(s, w, x):
    """Four running sums, one for each place in a quad."""
    return (
        fma(w[0], x[0], s[0]),
        fma(w[1], x[1], s[1]),
        fma(w[2], x[2], s[2]),
        fma(w[3], x[3], s[3]),
    )


@inline
def accumulate_four(s, w, x, chunk):
    """Running sums of a format with four floats in a chunk; x lies in shared memory."""
    return add_products(s, w[0], load_shared_f32x4(uint32(x + chunk * 16)))


@inline
def accumulate_eight(s, w, x, chunk):
    """Running sums of a format with eight floats in a chunk."""
    s = add_products(s, w[0], load_shared_f32x4(uint32(x + chunk * 32)))
    return add_products(s, w[1], load_shared_f32x4(uint32(x + chunk * 32 + 16)))


@inline
def inside_row_of_four(floats, chunk, chunks):
    """What a lane loaded of a chunk; zeros where a row of so many chunks has none of that number.

    For formats with four floats in a chunk.
    """
    return (only_quad(chunk < uint32(chunks), floats[0]),)


@inline
def inside_row_of_eight(floats, chunk, chunks):
    """The same for formats with eight."""
    inside = chunk < uint32(chunks)
    return only_quad(inside, floats[0]), only_quad(inside, floats[1])


@inline
def choose_quad(second, quads):
    """One of a chunk's two quads."""
    a, b = quads
    return (
        select_f32(second, b[0], a[0]),
        select_f32(second, b[1], a[1]),
        select_f32(second, b[2], a[2]),
        select_f32(second, b[3], a[3]),
    )
