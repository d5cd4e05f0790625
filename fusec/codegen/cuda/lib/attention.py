"""Attention over chunks of 32 positions, one warp each: eight lanes share a cached key's row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import (
    at,
    div_f32,
    fma,
    half_to_f32,
    high_half_to_f32,
    inline,
    load_f32x2,
    load_f32x4,
    load_shared_f32,
    load_u32,
    load_u32x2,
    load_u32x4,
    max_f32,
    min_u32,
    select_f32,
    shuffle_from_f32,
    shuffle_xor_f32,
    store_f32_if,
    store_shared_f32_if,
    store_shared_f32x2,
)
from fusec.codegen.cuda.lib.math import exp_f32
from fusec.codegen.cuda.lib.vectors import warp_sum

LOWEST = float32(-3.0e38)

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


@inline
def fold_lanes(upper, low, high, distance):
    """Lanes whose bit `distance` is set keep `high`, the others `low`; each adds its partner's."""
    mine = select_f32(upper, high, low)
    return mine + shuffle_xor_f32(select_f32(upper, low, high), distance)


@inline
def score_of_lane(d, lane):
    """Sums over each eight lanes of eight values: lane i of them keeps value i."""
    far, near, odd = is_set(lane, 4), is_set(lane, 2), is_set(lane, 1)
    four = uint32(4)
    a, b = fold_lanes(far, d[0], d[4], four), fold_lanes(far, d[1], d[5], four)
    c, e = fold_lanes(far, d[2], d[6], four), fold_lanes(far, d[3], d[7], four)
    a, b = fold_lanes(near, a, c, uint32(2)), fold_lanes(near, b, e, uint32(2))
    return fold_lanes(odd, a, b, uint32(1))


@inline
def is_set(lane, bit):
    """Whether a bit of the lane's number is set."""
    return uint32(lane & uint32(bit)) != uint32(0)


@inline
def warp_max(s):
    """The largest of the warp's values, in every lane."""
    s = max_f32(s, shuffle_xor_f32(s, uint32(16)))
    s = max_f32(s, shuffle_xor_f32(s, uint32(8)))
    s = max_f32(s, shuffle_xor_f32(s, uint32(4)))
    s = max_f32(s, shuffle_xor_f32(s, uint32(2)))
    return max_f32(s, shuffle_xor_f32(s, uint32(1)))


@inline
def weight_of(p, lane, t):
    """The weight of the group's t-th position, which lane t of the group has."""
    return shuffle_from_f32(p, uint32(uint32(lane & uint32(24)) + uint32(t)))


@inline
def softmax_chunk(score, live, maxima, sums, slot, lane):
    """Weights relative to the chunk's largest score; that and their sum go to `slot`."""
    score = select_f32(live, score, LOWEST)
    top = warp_max(score)
    p = select_f32(live, exp_f32(score - top), float32(0))
    part = warp_sum(p)
    first = lane == uint32(0)
    store_shared_f32_if(uint32(maxima + slot * 4), top, first)
    store_shared_f32_if(uint32(sums + slot * 4), part, first)
    return p


@inline
def over_groups(x):
    """The sum over the warp's four groups of eight lanes."""
    x = x + shuffle_xor_f32(x, uint32(16))
    return x + shuffle_xor_f32(x, uint32(8))


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


# --- all chunks ----------------------------------------------------------------------------------


@inline
def combine(state, maxima, sums, outs, stride, count, element, lane):
    """Fold up to 32 chunks into (maximum, sum of weights, result) of one element of the head.

    Lane c weighs chunk c; the results are added up in the chunks' order.
    """
    before, total, result = state
    slot = min_u32(lane, uint32(count - 1))
    mine = lane < uint32(count)
    chunk_top = select_f32(mine, load_shared_f32(uint32(maxima + slot * 4)), LOWEST)
    top = max_f32(before, warp_max(chunk_top))
    fade = exp_f32(before - top)
    weight = select_f32(mine, exp_f32(chunk_top - top), float32(0))
    part = warp_sum(weight * load_shared_f32(uint32(sums + slot * 4)))
    total, result = fma(total, fade, part), result * fade
    for c in range(count):
        value = load_shared_f32(uint32(outs + (c * stride + element) * 4))
        result = fma(shuffle_from_f32(weight, uint32(c)), value, result)
    return top, total, result


@inline
def store_quotient(out, i, state, live):
    """The head's element: weighted sum over sum of weights."""
    store_f32_if(at(out, i), div_f32(state[2], state[1]), live)
