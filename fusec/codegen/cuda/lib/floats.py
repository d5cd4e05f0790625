"""Plain floats as `cuda_repack` lays them out: rows of 16-byte chunks of one or two quads.

`fetch_F` loads a chunk, `floats_F` gives its quads. `chunks` is how many a row has.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import uint32

from fusec.codegen.cuda.device import (
    at,
    bits_f32,
    fma,
    half_to_f32,
    high_half_to_f32,
    inline,
    load_shared_f32x4,
    load_weight_v4,
    select_f32,
)


@inline
def fetch_f32(w, rows, chunks, row, chunk):
    """Four floats."""
    return load_weight_v4(at(w, uint32((row * chunks + chunk) * 16)))


@inline
def fetch_f16(w, rows, chunks, row, chunk):
    """Eight halves."""
    return load_weight_v4(at(w, uint32((row * chunks + chunk) * 16)))


@inline
def fetch_bf16(w, rows, chunks, row, chunk):
    """Eight truncated floats."""
    return load_weight_v4(at(w, uint32((row * chunks + chunk) * 16)))


@inline
def floats_f32(w):
    """As they are, twice: a chunk has one quad."""
    values = bits_f32(w[0]), bits_f32(w[1]), bits_f32(w[2]), bits_f32(w[3])
    return values, values


@inline
def floats_f16(w):
    """Both quads of a chunk."""
    return (
        (half_to_f32(w[0]), high_half_to_f32(w[0]), half_to_f32(w[1]), high_half_to_f32(w[1])),
        (half_to_f32(w[2]), high_half_to_f32(w[2]), half_to_f32(w[3]), high_half_to_f32(w[3])),
    )


@inline
def upper(word):
    """The float whose upper half is the word's upper half."""
    return bits_f32(uint32(word & uint32(0xFFFF0000)))


@inline
def lower(word):
    """The float whose upper half is the word's lower half."""
    return bits_f32(uint32(word << uint32(16)))


@inline
def floats_bf16(w):
    """Both quads of a chunk."""
    return (
        (lower(w[0]), upper(w[0]), lower(w[1]), upper(w[1])),
        (lower(w[2]), upper(w[2]), lower(w[3]), upper(w[3])),
    )


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
def choose_quad(second, quads):
    """One of a chunk's two quads."""
    a, b = quads
    return (
        select_f32(second, b[0], a[0]),
        select_f32(second, b[1], a[1]),
        select_f32(second, b[2], a[2]),
        select_f32(second, b[3], a[3]),
    )
