"""Attention of several rows of a step at once: the sums of `lib.attention`, shared out otherwise.

Eight lanes, the members, share a position's key as they do there, but a member has its pieces of
the queries of several rows in registers and multiplies the key with all of them. A chunk is 16
positions; of its four groups, group g has positions g, g + 4, g + 8 and g + 12.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, int32, uint32

from fusec.codegen.cuda.device import (
    at,
    copy_async_16_if,
    fma,
    inline,
    load_f32x2,
    load_f32x4,
    load_shared_f32,
    load_shared_f32x2,
    load_shared_f32x4,
    load_shared_u32,
    load_shared_u32x2,
    load_shared_u32x4,
    load_u32,
    max_s32,
    max_u32,
    min_u32,
    s32_to_f32,
    select_s32,
    select_u32,
    shuffle_xor_f32,
    shuffle_xor_u32,
    some,
    store_f32_if,
    store_f32x4_if,
    store_shared_f32_if,
    store_shared_f32x2_if,
    store_shared_f32x4,
    store_shared_f32x4_if,
    store_shared_u32_if,
    warp_max_u32,
    warp_min_u32,
)
from fusec.codegen.cuda.lib.attention import (
    LOWEST,
    axpy_4,
    bounded,
    halves_2,
    halves_4,
    halves_8,
    two_to,
)
from fusec.codegen.cuda.lib.math import exp_parts
from fusec.codegen.cuda.lib.pages import row_in_page
from fusec.codegen.cuda.lib.spans import divided
from fusec.codegen.cuda.lib.vectors import of_quad, only, only_quad, plus

# --- what a block reads of memory -----------------------------------------------------------------


@inline
def store_ends(pos, first, there_are, rows, ends, lane, warp):
    """Write how many positions each of a block's rows attends to, none behind the step's rows.

    Returns the most, and the fewest of a row that there is.
    """
    most, fewest = uint32(0), uint32(0xFFFFFFFF)
    for turn in range((rows + 31) // 32):
        i = uint32(turn * 32 + lane)
        row = uint32(first + i)
        live = (i < uint32(rows)) & (row < there_are)
        end = uint32(load_u32(at(pos, min_u32(row, uint32(there_are - uint32(1))))) + uint32(1))
        most = max_u32(most, select_u32(live, end, uint32(0)))
        fewest = min_u32(fewest, select_u32(live, end, uint32(0xFFFFFFFF)))
        mine = (i < uint32(rows)) & (warp == uint32(0))
        store_shared_u32_if(uint32(ends + i * 4), select_u32(live, end, uint32(0)), mine)
    return warp_max_u32(most), warp_min_u32(fewest)


@inline
def store_queries(q, first, there_are, step, offset, head_dim, piece, parts, rows, to, thread):
    """Copy a head's queries, zeros behind its end: [part, half of a piece, row, member].

    So eight members read theirs, each of another row, without conflict. Pieces of less than eight
    elements are not halved. A block has 512 threads.
    """
    halves = 2 if piece == 8 else 1
    units = parts * halves * rows * 8
    for turn in range((units + 511) // 512):
        i = uint32(turn * 512 + thread)
        member, rest = uint32(i & uint32(7)), uint32(i >> uint32(3))
        which = uint32(rest // uint32(rows))
        row = min_u32(uint32(first + rest - which * rows), uint32(there_are - uint32(1)))
        part, half = uint32(which // uint32(halves)), uint32(which & uint32(halves - 1))
        element = uint32((member + part * 8) * uint32(piece) + half * 4)
        inside = element < uint32(head_dim)
        source = at(q, uint32(row * uint32(step) + offset + select_u32(inside, element, uint32(0))))
        live = i < uint32(units)
        if piece == 2:
            a, b = load_f32x2(source)
            store_shared_f32x2_if(uint32(to + i * 8), only(inside, a), only(inside, b), live)
        else:
            x, y, z, w = only_quad(inside, load_f32x4(source))
            store_shared_f32x4_if(uint32(to + i * 16), x, y, z, w, live)


@inline
def copy_positions(
    to, cache, begin, page, first, limit, last, step, offset, pieces, elements, count, thread
):
    """Let positions from `first` on up to `limit` be copied, `count` at most, of `pieces` 16 bytes.

    A piece has `elements`. All are of one page, which begins at row `begin`. Those behind `last`,
    the last that was written, are it.
    """
    for turn in range((count * pieces + 511) // 512):
        i = uint32(turn * 512 + thread)
        place = uint32(i // uint32(pieces))
        position = uint32(first + place)
        element = uint32((i - place * pieces) * elements + offset)
        row = row_in_page(begin, min_u32(position, last), page)
        source = at(cache, uint32(row * uint32(step) + element))
        live = (position < limit) & (i < uint32(count * pieces))
        copy_async_16_if(uint32(to + i * 16), source, live)


@inline
def copy_words(
    to, cache, begin, page, first, limit, last, step, offset, words, elements, width, count, thread
):
    """`copy_positions` of rows that are no whole 16 bytes, to rows of `width` bytes."""
    for turn in range((count * words + 511) // 512):
        i = uint32(turn * 512 + thread)
        place = uint32(i // uint32(words))
        position, word = uint32(first + place), uint32(i - place * words)
        element = uint32(word * elements + offset)
        row = row_in_page(begin, min_u32(position, last), page)
        value = load_u32(at(cache, uint32(row * uint32(step) + element)))
        live = (position < limit) & (i < uint32(count * words))
        store_shared_u32_if(uint32(to + place * width + word * 4), value, live)


# --- pieces in shared memory, as floats -----------------------------------------------------------


@inline
def query_8(place, half):
    """Eight elements of a query, the second four `half` bytes behind the first."""
    return load_shared_f32x4(place), load_shared_f32x4(uint32(place + half))


@inline
def query_4(place, _half):
    """Four."""
    return load_shared_f32x4(place)


@inline
def query_2(place, _half):
    """Two."""
    return load_shared_f32x2(place)


@inline
def key_f16_8(place):
    """Eight elements of a key."""
    return halves_8(load_shared_u32x4(place))


@inline
def key_f16_4(place):
    """Four."""
    return halves_4(load_shared_u32x2(place))


@inline
def key_f16_2(place):
    """Two."""
    return halves_2(load_shared_u32(place))


@inline
def key_f32_8(place):
    """Eight floats."""
    return load_shared_f32x4(place), load_shared_f32x4(uint32(place + 16))


@inline
def key_f32_4(place):
    """Four."""
    return load_shared_f32x4(place)


@inline
def key_f32_2(place):
    """Two."""
    return load_shared_f32x2(place)


@inline
def value_quad(place, is_half):
    """Four elements of a value."""
    if is_half:
        return halves_4(load_shared_u32x2(place))
    return load_shared_f32x4(place)


# --- scores and weights of a chunk ----------------------------------------------------------------


@inline
def score_of_member(a, b, c, d, e, f, g, h):
    """Sums over eight members of eight values; each is two sums, of even and of odd elements.

    Member m calls value i what is number i ^ m, and keeps number m. So nothing has to be chosen:
    what it sends its neighbour is what that one calls by the number that it adds it to.
    """
    far, near = uint32(4), uint32(2)
    a = (a[0] + a[1]) + shuffle_xor_f32(e[0] + e[1], far)
    b = (b[0] + b[1]) + shuffle_xor_f32(f[0] + f[1], far)
    c = (c[0] + c[1]) + shuffle_xor_f32(g[0] + g[1], far)
    d = (d[0] + d[1]) + shuffle_xor_f32(h[0] + h[1], far)
    a, b = a + shuffle_xor_f32(c, near), b + shuffle_xor_f32(d, near)
    return a + shuffle_xor_f32(b, uint32(1))


@inline
def parts_of_exp(score, live):
    """`exp_parts` within the bounds; an exponent that is not live is that of nothing."""
    mantissa, exponent = exp_parts(bounded(score))
    return mantissa, select_s32(live, exponent, LOWEST)


@inline
def larger_across(x, distance):
    """The larger of this lane's and of the one `distance` away."""
    return max_s32(x, int32(shuffle_xor_u32(uint32(x), uint32(distance))))


@inline
def is_between(position, more, begin, end):
    """Whether a position, so many behind that one, is one of those that a row sees."""
    here = uint32(position + more)
    return (here >= begin) & (here < end)


@inline
def first_seen(end, window):
    """The first position that is seen where `end` are there; all of them are without a window."""
    return uint32(max_u32(end, uint32(window)) - uint32(window)) if window else uint32(0)


@inline
def weigh_group(scores, position, begin, end):
    """Weights of positions `position`, + 4, + 8, + 12, and the `top` of the four groups' scores.

    Positions in front of `begin` and from `end` on weigh 0, whatever their scores are.
    """
    a_live, b_live = is_between(position, 0, begin, end), is_between(position, 4, begin, end)
    c_live, d_live = is_between(position, 8, begin, end), is_between(position, 12, begin, end)
    a, a_exponent = parts_of_exp(scores[0], a_live)
    b, b_exponent = parts_of_exp(scores[1], b_live)
    c, c_exponent = parts_of_exp(scores[2], c_live)
    d, d_exponent = parts_of_exp(scores[3], d_live)
    top = max_s32(max_s32(a_exponent, b_exponent), max_s32(c_exponent, d_exponent))
    top = larger_across(larger_across(top, 16), 8)
    return (
        only(a_live, a * two_to(int32(a_exponent - top))),
        only(b_live, b * two_to(int32(b_exponent - top))),
        only(c_live, c * two_to(int32(c_exponent - top))),
        only(d_live, d * two_to(int32(d_exponent - top))),
    ), top


# --- weighted values of a chunk -------------------------------------------------------------------


@inline
def weighted_group(weights, values, step, width, is_half, group):
    """Sums over a group's positions of a quad of values, by the weights of four rows.

    The rows' weights are `step` bytes apart, positions `width`.
    """
    zero = (float32(0), float32(0), float32(0), float32(0))
    here = uint32(weights + uint32(group * 16))
    p, q = load_shared_f32x4(here), load_shared_f32x4(uint32(here + step))
    r, s = load_shared_f32x4(uint32(here + 2 * step)), load_shared_f32x4(uint32(here + 3 * step))
    first = uint32(values + uint32(group * width))
    x = value_quad(first, is_half)
    a, b = axpy_4(zero, p[0], x), axpy_4(zero, q[0], x)
    c, d = axpy_4(zero, r[0], x), axpy_4(zero, s[0], x)
    x = value_quad(uint32(first + 4 * width), is_half)
    a, b, c, d = axpy_4(a, p[1], x), axpy_4(b, q[1], x), axpy_4(c, r[1], x), axpy_4(d, s[1], x)
    x = value_quad(uint32(first + 8 * width), is_half)
    a, b, c, d = axpy_4(a, p[2], x), axpy_4(b, q[2], x), axpy_4(c, r[2], x), axpy_4(d, s[2], x)
    x = value_quad(uint32(first + 12 * width), is_half)
    return axpy_4(a, p[3], x), axpy_4(b, q[3], x), axpy_4(c, r[3], x), axpy_4(d, s[3], x)


@inline
def plus_four(x, y):
    """Four quads and four."""
    return plus(x[0], y[0]), plus(x[1], y[1]), plus(x[2], y[2]), plus(x[3], y[3])


@inline
def weighted_chunk(weights, values, step, width, is_half):
    """The same over a chunk."""
    even = plus_four(
        weighted_group(weights, values, step, width, is_half, 0),
        weighted_group(weights, values, step, width, is_half, 2),
    )
    odd = plus_four(
        weighted_group(weights, values, step, width, is_half, 1),
        weighted_group(weights, values, step, width, is_half, 3),
    )
    return plus_four(even, odd)


@inline
def store_four_rows(out, step, x):
    """Write four quads, `step` bytes apart."""
    store_shared_f32x4(out, x[0][0], x[0][1], x[0][2], x[0][3])
    store_shared_f32x4(uint32(out + step), x[1][0], x[1][1], x[1][2], x[1][3])
    store_shared_f32x4(uint32(out + 2 * step), x[2][0], x[2][1], x[2][2], x[2][3])
    store_shared_f32x4(uint32(out + 3 * step), x[3][0], x[3][1], x[3][2], x[3][3])


@inline
def are_not_finite(x):
    """Whether four quads have an infinity or NaN."""
    zero = float32(0)
    s = axpy_4((zero, zero, zero, zero), zero, x[0])
    s = axpy_4(axpy_4(axpy_4(s, zero, x[1]), zero, x[2]), zero, x[3])
    return of_quad(s) != zero


@inline
def careful_chunk(weights, values, step, width, is_half, window, ends, start, out, out_step):
    """`weighted_chunk`, where values are not finite: a row meets only those that it sees.

    `ends`: where the rows' numbers of positions are, `start`: of the chunk. What `store_four_rows`
    wrote is written anew. Positions that weigh 0 stand for the row's first or last one, as where a
    row has the block for itself, and so do whole chunks up to the next multiple of 64.
    """
    nothing = (float32(0), float32(0), float32(0), float32(0))
    for row in range(4):
        end = load_shared_u32(uint32(ends + row * 4))
        begin = first_seen(end, window)
        live = start < end
        if window:
            live = live & (uint32(start + 16) > begin)
        first = uint32(max_u32(begin, start) - start) if window else uint32(0)
        last = uint32(select_u32(live, uint32(end - start), uint32(1)) - uint32(1))
        o = (float32(-0.0), float32(-0.0), float32(-0.0), float32(-0.0))
        for odd in range(2):
            pair = nothing
            for far in range(2):
                s = nothing
                for turn in range(4):
                    place = uint32(turn * 4 + far * 2 + odd)
                    near = min_u32(max_u32(place, first) if window else place, last)
                    mine = uint32(weights + row * step + (far * 2 + odd) * 16 + turn * 4)
                    x = value_quad(uint32(values + near * width), is_half)
                    s = axpy_4(s, load_shared_f32(mine), only_quad(live, x))
                if far == 0:
                    pair = s
            o = plus(o, plus(pair, s))
        more = live & (last < uint32(16)) & (uint32(end & uint32(63)) != uint32(0))
        x = value_quad(uint32(values + min_u32(last, uint32(15)) * width), is_half)
        o = axpy_4(o, float32(0), only_quad(more, x))
        store_shared_f32x4(uint32(out + row * out_step), o[0], o[1], o[2], o[3])


# --- chunks of a span, and spans ------------------------------------------------------------------


@inline
def store_factors(maxima, sums, factors, tops, window, skipped, chunks, rows, thread):
    """Write what chunks are multiplied with, [row, 16], and each row's `top` of the span.

    Chunks behind the last one have the sum 0, and with a window the first `skipped` too.
    """
    for turn in range((rows * 16 + 511) // 512):
        i = uint32(turn * 512 + thread)
        live = i < uint32(rows * 16)
        if some(live):
            i = min_u32(i, uint32(rows * 16 - 1))
            chunk = uint32(i & uint32(15))
            top = int32(load_shared_u32(uint32(maxima + i * 4)))
            top = select_s32(chunk < chunks, top, LOWEST)
            if window:
                top = select_s32(chunk < skipped, LOWEST, top)
            most = larger_across(larger_across(top, 8), 4)
            most = larger_across(larger_across(most, 2), 1)
            store_shared_f32_if(uint32(factors + i * 4), two_to(int32(top - most)), live)
            none = chunk >= chunks
            if window:
                none = none | (chunk < skipped)
            store_shared_f32_if(uint32(sums + i * 4), float32(0), live & none)
            first = live & (chunk == uint32(0))
            store_shared_f32_if(uint32(tops + (i >> uint32(4)) * 4), s32_to_f32(most), first)


@inline
def fold_one(x, factors, outs, step, chunks):
    """A quad and those of some chunks, `step` bytes apart, times their factors, in order."""
    for chunk in range(chunks):
        factor = load_shared_f32(uint32(factors + chunk * 4))
        x = axpy_4(x, factor, load_shared_f32x4(uint32(outs + chunk * step)))
    return x


@inline
def fold_fours(x, factors, outs, step, chunks):
    """`fold_one` of four chunks at a time; there are zeros up to a multiple of four."""
    for turn in range(uint32(uint32(chunks + uint32(3)) >> uint32(2))):
        a, b, c, d = load_shared_f32x4(uint32(factors + turn * 16))
        here = uint32(outs + turn * (4 * step))
        x = axpy_4(x, a, load_shared_f32x4(here))
        x = axpy_4(x, b, load_shared_f32x4(uint32(here + step)))
        x = axpy_4(x, c, load_shared_f32x4(uint32(here + 2 * step)))
        x = axpy_4(x, d, load_shared_f32x4(uint32(here + 3 * step)))
    return x


@inline
def fold_sums(factors, sums, chunks):
    """The sum of a span's weights."""
    total = float32(0)
    for turn in range(uint32(uint32(chunks + uint32(3)) >> uint32(2))):
        f = load_shared_f32x4(uint32(factors + turn * 16))
        s = load_shared_f32x4(uint32(sums + turn * 16))
        total = fma(f[1], s[1], fma(f[0], s[0], total))
        total = fma(f[3], s[3], fma(f[2], s[2], total))
    return total


@inline
def store_attention(out, place, quad, head_dim, state, live):
    """Write a quad of a row's result; a head may end inside it."""
    a, b, c, d = divided(state)
    j = uint32(quad * 4)
    to = at(out, uint32(place + j))
    if head_dim % 4 == 0:
        store_f32x4_if(to, a, b, c, d, live)
    else:
        store_f32_if(to, a, live & (j < uint32(head_dim)))
        store_f32_if(at(to, uint32(1)), b, live & (uint32(j + 1) < uint32(head_dim)))
        store_f32_if(at(to, uint32(2)), c, live & (uint32(j + 2) < uint32(head_dim)))
        store_f32_if(at(to, uint32(3)), d, live & (uint32(j + 3) < uint32(head_dim)))
