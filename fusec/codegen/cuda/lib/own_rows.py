"""A head's query, key and value in shared memory, where the block that attends made them."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import (
    at,
    inline,
    load_shared_f32x2,
    load_shared_f32x4,
    load_shared_u32,
    load_shared_u32x2,
    load_shared_u32x4,
    pack_halves,
    select_f32,
    select_u32,
    store_f32_if,
    store_shared_f32x2_if,
    store_shared_u32_if,
    store_u16_if,
    thread_index,
)
from fusec.codegen.cuda.lib.vectors import (
    inverse_rms,
    normed,
    quad,
    quad_weight,
    store_elements,
    sum_squares,
)


@inline
def norm_part(x, n, own, weight, size, out, fraction, eps, live):
    """RMS norm of n floats by one warp, which writes `size` of them, those from `own` on.

    `weight` has theirs.
    """
    lane = uint32(thread_index() & uint32(31))
    inverse = inverse_rms(sum_squares(x, n), fraction, eps)
    for step in range((size + 127) // 128):
        i = uint32(step * 32 + lane)
        made = normed(quad(own, i, size), inverse, quad_weight(weight, i, size))
        store_elements(made, i, size, out, live)


@inline
def append_f16(kept, cached, i, a, b, live, writes):
    """Elements i and i + 1 of a row as halves, to shared memory and to the cache."""
    word = pack_halves(a, b)
    store_shared_u32_if(uint32(kept + i * 2), word, live)
    store_u16_if(at(cached, i), uint32(word & uint32(0xFFFF)), writes)
    store_u16_if(at(cached, uint32(i + uint32(1))), uint32(word >> uint32(16)), writes)


@inline
def append_f32(kept, cached, i, a, b, live, writes):
    """The same as floats."""
    store_shared_f32x2_if(uint32(kept + i * 4), a, b, live)
    store_f32_if(at(cached, i), a, writes)
    store_f32_if(at(cached, uint32(i + uint32(1))), b, writes)


# --- pieces, as `load_f16_8` and others in `lib.attention` have them ------------------------------


@inline
def own_f16_8(place):
    """Eight halves."""
    return load_shared_u32x4(place)


@inline
def own_f16_4(place):
    """Four halves."""
    return load_shared_u32x2(place)


@inline
def own_f16_2(place):
    """Two halves."""
    return load_shared_u32(place)


@inline
def own_f32_8(place):
    """Eight floats."""
    return load_shared_f32x4(place), load_shared_f32x4(uint32(place + uint32(16)))


@inline
def own_f32_4(place):
    """Four floats."""
    return load_shared_f32x4(place)


@inline
def own_f32_2(place):
    """Two floats."""
    return load_shared_f32x2(place)


@inline
def none_f16_8():
    """Eight halves of no row."""
    zero = uint32(0)
    return zero, zero, zero, zero


@inline
def none_f16_4():
    """Four halves."""
    return uint32(0), uint32(0)


@inline
def none_f16_2():
    """Two halves."""
    return uint32(0)


@inline
def none_f32_8():
    """Eight floats of no row."""
    return none_f32_4(), none_f32_4()


@inline
def none_f32_4():
    """Four floats."""
    zero = float32(0)
    return zero, zero, zero, zero


@inline
def none_f32_2():
    """Two floats."""
    return float32(0), float32(0)


@inline
def either_f16_8(fresh, own, other):
    """The block's own piece where the row is a fresh one, else the other."""
    a, b = either_f16_4(fresh, own[:2], other[:2])
    c, d = either_f16_4(fresh, own[2:], other[2:])
    return a, b, c, d


@inline
def either_f16_4(fresh, own, other):
    """Four halves."""
    return select_u32(fresh, own[0], other[0]), select_u32(fresh, own[1], other[1])


@inline
def either_f16_2(fresh, own, other):
    """Two halves."""
    return select_u32(fresh, own, other)


@inline
def either_f32_8(fresh, own, other):
    """Eight floats."""
    return either_f32_4(fresh, own[0], other[0]), either_f32_4(fresh, own[1], other[1])


@inline
def either_f32_4(fresh, own, other):
    """Four floats."""
    a, b = either_f32_2(fresh, own[:2], other[:2])
    c, d = either_f32_2(fresh, own[2:], other[2:])
    return a, b, c, d


@inline
def either_f32_2(fresh, own, other):
    """Two floats."""
    return select_f32(fresh, own[0], other[0]), select_f32(fresh, own[1], other[1])
