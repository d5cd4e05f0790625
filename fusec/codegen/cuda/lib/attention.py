"""Attention over chunks of 16 positions, one warp each: eight lanes share a cached key's row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    at,
    fma,
    half_to_f32,
    high_half_to_f32,
    inline,
    load_f32x2,
    load_f32x4,
    load_shared_f32,
    load_shared_f32x4,
    load_shared_u32,
    load_shared_u32x4,
    load_u32,
    load_u32x2,
    load_u32x4,
    max_s32,
    min_u32,
    s32_to_f32,
    select_f32,
    select_s32,
    shuffle_from_f32,
    shuffle_xor_f32,
    some,
    store_shared_f32_if,
    store_shared_f32x2,
    store_shared_u32_if,
    warp_max_s32,
)
from fusec.codegen.cuda.lib.math import exp_parts, power_of_two
from fusec.codegen.cuda.lib.vectors import add_across

LOWEST = int32(-(1 << 30))  # the `top` of nothing
BOUND = float32(1 << 20)  # larger scores count as this one

# --- pieces of rows: as they lie in memory, and halves as floats ----------------------------------


@inline
def load_f16_8(x, i):
    """Eight halves from element i."""
    return load_u32x4(at(x, i))


@inline
def load_f16_4(x, i):
    """Four halves."""
    return load_u32x2(at(x, i))


@inline
def load_f16_2(x, i):
    """Two halves."""
    return load_u32(at(x, i))


@inline
def load_f32_8(x, i):
    """Eight floats."""
    return load_f32x4(at(x, i)), load_f32x4(at(x, uint32(i + uint32(4))))


@inline
def load_f32_4(x, i):
    """Four floats."""
    return load_f32x4(at(x, i))


@inline
def load_f32_2(x, i):
    """Two floats."""
    return load_f32x2(at(x, i))


@inline
def halves_2(word):
    """Two halves as floats."""
    return half_to_f32(word), high_half_to_f32(word)


@inline
def halves_4(words):
    """Four."""
    a, b = words
    return half_to_f32(a), high_half_to_f32(a), half_to_f32(b), high_half_to_f32(b)


@inline
def halves_8(words):
    """Eight."""
    return halves_4((words[0], words[1])), halves_4((words[2], words[3]))


# Products of pieces keep two sums, of the elements in even and in odd places.


@inline
def dot_2(s, a, b):
    """Two elements."""
    return fma(a[0], b[0], s[0]), fma(a[1], b[1], s[1])


@inline
def dot_4(s, a, b):
    """Four."""
    return fma(a[2], b[2], fma(a[0], b[0], s[0])), fma(a[3], b[3], fma(a[1], b[1], s[1]))


@inline
def dot_8(s, a, b):
    """Eight."""
    return dot_4(dot_4(s, a[0], b[0]), a[1], b[1])


@inline
def axpy_2(o, p, v):
    """o + p v."""
    return fma(p, v[0], o[0]), fma(p, v[1], o[1])


@inline
def axpy_4(o, p, v):
    """Four elements."""
    return fma(p, v[0], o[0]), fma(p, v[1], o[1]), fma(p, v[2], o[2]), fma(p, v[3], o[3])


@inline
def axpy_8(o, p, v):
    """Eight."""
    return axpy_4(o[0], p, v[0]), axpy_4(o[1], p, v[1])


@inline
def masked_2(live, q):
    """The piece, or zeros for a lane behind the row's end."""
    return select_f32(live, q[0], float32(0)), select_f32(live, q[1], float32(0))


@inline
def masked_4(live, q):
    """Four elements."""
    a, b = masked_2(live, (q[0], q[1]))
    c, d = masked_2(live, (q[2], q[3]))
    return a, b, c, d


@inline
def masked_8(live, q):
    """Eight."""
    return masked_4(live, q[0]), masked_4(live, q[1])


# --- one chunk -----------------------------------------------------------------------------------
#
# A weight is exp(score) = m * 2**n over 2**top, with `top` the largest n of what is summed up. So
# weights of different sums are brought together by powers of two, which is exact.


@inline
def fold_lanes(upper, low, high, distance):
    """Lanes whose bit `distance` is set keep `high`, the others `low`; each adds its partner's."""
    mine = select_f32(upper, high, low)
    return mine + shuffle_xor_f32(select_f32(upper, low, high), distance)


@inline
def score_of_lane(d, lane):
    """Sums over each eight lanes of four values: lanes 2t and 2t + 1 of them keep value t."""
    far, near = is_set(lane, 4), is_set(lane, 2)
    a = fold_lanes(far, d[0], d[2], uint32(4))
    b = fold_lanes(far, d[1], d[3], uint32(4))
    return add_across(fold_lanes(near, a, b, uint32(2)), uint32(1))


@inline
def is_set(lane, bit):
    """Whether a bit of the lane's number is set."""
    return uint32(lane & uint32(bit)) != uint32(0)


@inline
def bounded(score):
    """A score that `exp_parts` takes."""
    score = select_f32(score > BOUND, BOUND, score)
    return select_f32(score < -BOUND, -BOUND, score)


@inline
def weigh(score, live):
    """This lane's weight, and the `top` of the warp's scores; 0 where not `live`."""
    mantissa, exponent = exp_parts(bounded(score))
    exponent = select_s32(live, exponent, LOWEST)
    top = warp_max_s32(exponent)
    return mantissa * two_to(int32(exponent - top)), top


@inline
def two_to(n):
    """2**n for an integer up to 127; 0 from -127 down."""
    return power_of_two(max_s32(n, int32(-127)))


@inline
def weight_of(p, lane, t):
    """The weight of the group's t-th position."""
    return shuffle_from_f32(p, uint32(uint32(lane & uint32(24)) + uint32(2 * t)))


@inline
def store_weights(top, total, maxima, sums, slot, lane):
    """A chunk's `top` and its sum of weights; `total` is the sum of the group's."""
    total = over_groups(total)
    first = lane == uint32(0)
    store_shared_u32_if(uint32(maxima + slot * 4), uint32(top), first)
    store_shared_f32_if(uint32(sums + slot * 4), total, first)


@inline
def over_groups(x):
    """The sum over the warp's four groups of eight lanes."""
    return add_across(add_across(x, uint32(16)), uint32(8))


@inline
def store_2(out, o, lane):
    """Add the groups' pieces of the result up and write them to shared memory.

    Rows have room there for a piece of every lane.
    """
    a, b = over_groups(o[0]), over_groups(o[1])
    mine = lane < uint32(8)
    store_shared_f32_if(out, a, mine)
    store_shared_f32_if(uint32(out + uint32(4)), b, mine)


@inline
def store_4(out, o, lane):
    """Four elements."""
    store_2(out, (o[0], o[1]), lane)
    store_2(uint32(out + uint32(8)), (o[2], o[3]), lane)


@inline
def store_8(out, o, lane):
    """Eight; each group ends with two of them and writes those."""
    a, b = o
    far, near = is_set(lane, 16), is_set(lane, 8)
    distance = uint32(16)
    c, d = fold_lanes(far, a[0], b[0], distance), fold_lanes(far, a[1], b[1], distance)
    e, f = fold_lanes(far, a[2], b[2], distance), fold_lanes(far, a[3], b[3], distance)
    c, d = fold_lanes(near, c, e, uint32(8)), fold_lanes(near, d, f, uint32(8))
    group = uint32(uint32(uint32(lane >> uint32(4)) & uint32(1)) * 16 + (lane & uint32(8)))
    store_shared_f32x2(uint32(out + group), c, d)


# --- a span of chunks ----------------------------------------------------------------------------


@inline
def fold_chunks(maxima, sums, outs, stride, turns, element, lane):
    """(top, sum of weights, weighted values' sum) of one element over 4 * `turns` chunks.

    There is room for 16; a chunk without a live position has the `top` LOWEST.
    """
    slots = min_u32(uint32(lane & uint32(15)), uint32(turns * 4 - 1))
    top = warp_max_s32(int32(load_shared_u32(uint32(maxima + slots * 4))))
    total, result = float32(0), float32(0)
    for turn in range(turns):
        four = load_shared_u32x4(uint32(maxima + turn * 16))
        totals = load_shared_f32x4(uint32(sums + turn * 16))
        for c in range(4):
            weight = two_to(int32(int32(four[c]) - top))
            value = load_shared_f32(uint32(outs + ((turn * 4 + c) * stride + element) * 4))
            total = fma(weight, totals[c], total)
            result = fma(weight, value, result)
    return s32_to_f32(top), total, result


@inline
def fold_quads(maxima, sums, outs, stride, turns, own, lane):
    """`fold_chunks` of the four elements of quad `own`."""
    slots = min_u32(uint32(lane & uint32(15)), uint32(turns * 4 - 1))
    top = warp_max_s32(int32(load_shared_u32(uint32(maxima + slots * 4))))
    total, result = float32(0), (float32(0), float32(0), float32(0), float32(0))
    for turn in range(4):
        if some(uint32(turn) >= turns):
            continue
        four = load_shared_u32x4(uint32(maxima + turn * 16))
        totals = load_shared_f32x4(uint32(sums + turn * 16))
        for c in range(4):
            weight = two_to(int32(int32(four[c]) - top))
            values = load_shared_f32x4(uint32(outs + (turn * 4 + c) * (stride * 4) + own * 16))
            total = fma(weight, totals[c], total)
            result = axpy_4(result, weight, values)
    return s32_to_f32(top), total, result
