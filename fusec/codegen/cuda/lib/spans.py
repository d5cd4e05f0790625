"""Partial results of attention, one a span of positions: folded in order, kept, and combined.

A state is (top, sum of weights, weighted values), as `lib.attention` makes them; `top` is a float
here, so that partial results are plain f32. They lie in memory as [spans, heads * head_dim] values
and [spans, heads] pairs of top and sum.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import (
    add_u32,
    at,
    bits_f32,
    bits_u32,
    fma,
    inline,
    load_f32,
    load_f32x2,
    load_f32x4,
    load_shared_f32x2,
    load_shared_f32x4,
    map_shared,
    max_f32,
    min_u32,
    mul_u32,
    s32_to_f32,
    select_f32,
    select_u32,
    send_f32x2_if,
    send_f32x4_if,
    store_f32_if,
    store_f32x2_if,
)
from fusec.codegen.cuda.lib.attention import bounded
from fusec.codegen.cuda.lib.math import exp_parts, reciprocal
from fusec.codegen.cuda.lib.vectors import only

NOTHING = float32(-(1 << 30))  # the `top` of no span


@inline
def two_to_f32(n):
    """2**n of a float without a fraction, 0 or less; 0 from -127 down.

    Adding 1.5 * 2**23 + 127 leaves the biased exponent in the low bits.
    """
    return bits_f32(uint32(bits_u32(max_f32(n, float32(-127)) + float32(12583039.0)) << 23))


@inline
def fold_span(state, found):
    """A span's state folded into that of the spans before (Milakov & Gimelshein 2018)."""
    top, total, value = found
    both = max_f32(state[0], top)
    fade, weight = two_to_f32(state[0] - both), two_to_f32(top - both)
    return both, fma(weight, total, state[1] * fade), fma(weight, value, state[2] * fade)


@inline
def span_of_sink(sink):
    """A logit without a value, as (top, sum of weights) of a span."""
    mantissa, exponent = exp_parts(bounded(sink))
    return s32_to_f32(exponent), mantissa


@inline
def fold_sink(state, sink):
    """A state that a sink takes part in, behind all spans."""
    top, total = span_of_sink(sink)
    return fold_span(state, (top, total, float32(0)))


@inline
def fold_sink_four(state, sink):
    """The same of four elements."""
    top, total = span_of_sink(sink)
    zero = float32(0)
    return fold_four(state, (top, total, (zero, zero, zero, zero)))


@inline
def store_result(out, i, state, live):
    """Element i of the attention: weighted values over weights."""
    store_f32_if(at(out, i), state[2] * reciprocal(state[1]), live)


@inline
def store_span(values, pairs, span, head, heads, element, head_dim, state, thread):
    """Keep a span's state for `combined_quad`; a thread has one element of the head."""
    place = uint32(span * (heads * head_dim) + head * head_dim + element)
    store_f32_if(at(values, place), state[2], thread < uint32(head_dim))
    pair = uint32((span * heads + head) * 2)
    store_f32x2_if(at(pairs, pair), state[0], state[1], thread == uint32(0))


@inline
def fold_four(state, span):
    """`fold_span` of four elements of one head; both are (top, sum of weights, four values)."""
    before, total, values = state
    top, its_total, its_values = span
    a = fold_span((before, total, values[0]), (top, its_total, its_values[0]))
    b = fold_span((before, total, values[1]), (top, its_total, its_values[1]))
    c = fold_span((before, total, values[2]), (top, its_total, its_values[2]))
    d = fold_span((before, total, values[3]), (top, its_total, its_values[3]))
    return a[0], a[1], (a[2], b[2], c[2], d[2])


@inline
def divided(state):
    """A quad of the attention: weighted values over weights."""
    values, inverse = state[2], reciprocal(state[1])
    return values[0] * inverse, values[1] * inverse, values[2] * inverse, values[3] * inverse


@inline
def give_span(values, pairs, mailbox, begin, span, spans, quads, at_once, own, state, live, thread):
    """Send a span's state to every block of the cluster, to `at_once` of them at a time.

    Each `quads` threads in a row have the whole state, a thread its quad `own`. `values` and
    `pairs`, [spans, quads] and [spans] in shared memory, and the mailbox that counts them have the
    same place in all blocks, the first of which has rank `begin`. A span that is not `live` has the
    `top` of none.
    """
    top, total, x = state
    top = select_f32(live, top, NOTHING)
    place = uint32(values + (span * quads + own) * 16)
    group, all_lanes = uint32(thread // uint32(quads)), thread < uint32(quads * at_once)
    for first in range(0, spans, at_once):
        other = uint32(first + group)
        rank = uint32(min_u32(other, uint32(spans - 1)) + uint32(begin))
        to, counted = map_shared(place, rank), map_shared(mailbox, rank)
        send_f32x4_if(to, x[0], x[1], x[2], x[3], counted, all_lanes & (other < uint32(spans)))
    rank = uint32(min_u32(thread, uint32(spans - 1)) + uint32(begin))
    to, counted = map_shared(uint32(pairs + span * 8), rank), map_shared(mailbox, rank)
    send_f32x2_if(to, top, total, counted, thread < uint32(spans))


@inline
def taken(values, pairs, quads, span, own):
    """A span's state as `give_span` sent it, for quad `own`."""
    top, total = load_shared_f32x2(uint32(pairs + span * 8))
    return top, total, load_shared_f32x4(uint32(values + (span * quads + own) * 16))


@inline
def load_span(values, pairs, pair, j, span, last, heads, n, wide):
    """A span's (top, sum of weights, elements j to j + 3), or j four times, unless `wide`.

    `pair`: where those of span 0 are. A span behind the last has the `top` of none.
    """
    here = min_u32(span, last)
    its_pair = add_u32(mul_u32(here, uint32(2 * heads)), pair)
    top, total = load_f32x2(at(pairs, its_pair))
    top = select_f32(span <= last, top, NOTHING)
    place = at(values, add_u32(mul_u32(here, uint32(n)), j))
    if wide:
        return top, total, load_f32x4(place)
    value = load_f32(place)
    return top, total, (value, value, value, value)


@inline
def combined(values, pairs, sinks, have_sinks, last, j, heads, head_dim, wide):
    """Elements j to j + 3 of the attention over spans 0 to `last`, or only j, unless `wide`.

    Four spans are on their way at once. `sinks`: a logit of each head, if they have one.
    """
    n, head = heads * head_dim, uint32(j // uint32(head_dim))
    pair = uint32(head * 2)
    state = load_span(values, pairs, pair, j, uint32(0), uint32(0), heads, n, wide)
    for turn in range(uint32(uint32(last + uint32(3)) >> uint32(2))):
        first = uint32(turn * 4 + 1)
        a = load_span(values, pairs, pair, j, first, last, heads, n, wide)
        b = load_span(values, pairs, pair, j, uint32(first + 1), last, heads, n, wide)
        c = load_span(values, pairs, pair, j, uint32(first + 2), last, heads, n, wide)
        d = load_span(values, pairs, pair, j, uint32(first + 3), last, heads, n, wide)
        state = fold_four(fold_four(fold_four(fold_four(state, a), b), c), d)
    if have_sinks:
        state = fold_sink_four(state, load_f32(at(sinks, head)))
    return divided(state)


@inline
def combined_element(values, pairs, sinks, have_sinks, last, j, heads, head_dim):
    """Element j of the attention."""
    return combined(values, pairs, sinks, have_sinks, last, j, heads, head_dim, False)[0]


@inline
def combined_quad(values, pairs, sinks, have_sinks, last, i, heads, head_dim):
    """Quad i of the attention; zeros behind its end."""
    end = heads * head_dim
    if head_dim % 4 == 0:
        inside = i < uint32(end // 4)
        j = uint32(select_u32(inside, uint32(i), uint32(0)) * 4)
        a, b, c, d = combined(values, pairs, sinks, have_sinks, last, j, heads, head_dim, True)
        return only(inside, a), only(inside, b), only(inside, c), only(inside, d)
    return (
        element_or_zero(values, pairs, sinks, have_sinks, last, uint32(i * 4), heads, head_dim),
        element_or_zero(values, pairs, sinks, have_sinks, last, uint32(i * 4 + 1), heads, head_dim),
        element_or_zero(values, pairs, sinks, have_sinks, last, uint32(i * 4 + 2), heads, head_dim),
        element_or_zero(values, pairs, sinks, have_sinks, last, uint32(i * 4 + 3), heads, head_dim),
    )


@inline
def element_or_zero(values, pairs, sinks, have_sinks, last, j, heads, head_dim):
    """Element j; 0 behind the end."""
    end = uint32(heads * head_dim - 1)
    value = combined_element(
        values, pairs, sinks, have_sinks, last, min_u32(j, end), heads, head_dim
    )
    return only(j <= end, value)
