"""Drafted tokens on the device: guess them, and take over those that were right."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32, uint64

from fusec.codegen.cuda.device import (
    at,
    barrier,
    bits_u32,
    div_f32,
    globaltimer,
    inline,
    load_f32,
    load_shared_u32,
    load_u32,
    load_u32x2,
    max_u32,
    min_u32,
    select_f32,
    select_u32,
    shuffle_from_u32,
    some,
    store_shared_u32_if,
    store_u32_if,
    store_u32x2_if,
    thread_index,
    uniform,
    warp_barrier,
    warp_max_u32,
    warp_min_u32,
)
from fusec.codegen.cuda.lib.control import NO_TOKEN, RING, is_finite
from fusec.codegen.cuda.lib.math import exp_f32
from fusec.codegen.cuda.lib.reduce import eight
from fusec.codegen.cuda.lib.sampling import running_sum

THREADS = 1024  # of the block that guesses
LONGEST = 31  # tokens that a match is measured up to
SURE = 3  # tokens of a match that is worth more than an entry of the table of pairs
CHAIN = 3  # of guesses from the table, each of which waits for the one before
PAIRS = 1 << 16  # entries of the table

LIMIT, SUFFIXES, CHAINED, IDLE, GRAPHS = range(5)  # words of the state
PLACE_BITS = 24  # of the key of a match, whose length stands above them


@inline
def length_of_match(tokens, place, end, alive):
    """How many tokens up to `place` are those up to `end`; 0 where it is not `alive`.

    `alive`: the two tokens themselves are the same.
    """
    length = select_u32(alive, uint32(1), uint32(0))
    for back in range(1, LONGEST):
        alive = alive & (uint32(back) <= place)
        if some(alive):
            a = load_u32(at(tokens, uint32(place - min_u32(uint32(back), place))))
            b = load_u32(at(tokens, uint32(end - min_u32(uint32(back), place))))
            alive = alive & (a == b)
            length = uint32(length + select_u32(alive, uint32(1), uint32(0)))
    return length


@inline
def longest_match(tokens, end, scratch):
    """Length << 24 | place of the longest earlier match of the tokens up to `end`; 0: no match.

    `place` is that of the token behind the match; of equal lengths the last one counts. In every
    thread; `scratch` is 128 shared bytes. All threads have passed a barrier at the end.
    """
    thread = thread_index()
    lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
    last, best = load_u32(at(tokens, end)), uint32(thread & uint32(0))
    for turn in range(uniform(uint32((end + uint32(THREADS - 1)) // uint32(THREADS)))):
        before = uint32(turn * THREADS + thread)
        inside = before < end
        before = select_u32(inside, before, uint32(0))
        alive = inside & (load_u32(at(tokens, before)) == last)
        if some(alive):
            length = length_of_match(tokens, before, end, alive)
            key = uint32(uint32(length << uint32(PLACE_BITS)) | uint32(before + uint32(1)))
            best = max_u32(best, select_u32(alive, key, uint32(0)))
    store_shared_u32_if(uint32(scratch + warp * 4), warp_max_u32(best), lane == uint32(0))
    barrier()
    return warp_max_u32(load_shared_u32(uint32(scratch + lane * 4)))


@inline
def slot_of(before, last):
    """Where in the table of pairs two tokens are, and what marks their entry; never 0."""
    mixed = uint32(uint32(before * uint32(0x9E3779B1)) ^ uint32(last * uint32(0x85EBCA6B)))
    tag = uint32(uint32(before * uint32(0xC2B2AE35)) + uint32(last * uint32(0x27D4EB2F)))
    return uint32(mixed >> uint32(16)), uint32(tag | uint32(1))


@inline
def recycled(pairs, before, last, alive):
    """A chain of guesses from the table, and how many of them there are; none if not `alive`."""
    first, second, third = uint32(0), uint32(0), uint32(0)
    count, found, token = uint32(0), uint32(0), uint32(0)  # no entry is marked 0
    for turn in range(CHAIN):
        slot, tag = slot_of(before, last)
        if some(alive):
            found, token = load_u32x2(at(pairs, slot))
        alive = alive & (found == tag)
        count = uint32(count + select_u32(alive, uint32(1), uint32(0)))
        if turn == 0:
            first = token
        if turn == 1:
            second = token
        if turn == 2:
            third = token
        before, last = last, token
    return first, second, third, count


@inline
def draft_tokens(tokens, token, pos, rows, most, state, pairs, scratch):
    """See `fusec.codegen.cuda.drafting.draft`."""
    thread = thread_index()
    position, limit = load_u32(pos), load_u32(at(state, uint32(LIMIT)))
    idle = position > limit
    end = min_u32(position, limit)
    last = load_u32(at(tokens, end))
    before = load_u32(at(tokens, uint32(max_u32(end, uint32(1)) - uint32(1))))

    key = longest_match(tokens, end, scratch)
    length = uint32(key >> uint32(PLACE_BITS))
    known = length != uint32(0)
    place = uint32(key & uint32((1 << PLACE_BITS) - 1))
    period = select_u32(known, uint32(end + uint32(1) - place), uint32(1))
    source = uint32(select_u32(known, place, uint32(0)) + uint32(uint32(thread) % period))
    copied = load_u32(at(tokens, min_u32(source, end)))

    room = min_u32(load_u32(most), uint32(limit - end))
    suffixes = select_u32(known, load_u32(at(state, uint32(SUFFIXES))), uint32(0))
    allowed = load_u32(at(state, uint32(CHAINED)))
    unsure = (length < uint32(SURE)) | (suffixes == uint32(0))
    asked = unsure & (allowed != uint32(0)) & (end > uint32(0))
    first, second, third, count = recycled(pairs, before, last, asked)
    chained = min_u32(count, allowed)
    from_pairs = chained != uint32(0)
    wanted = min_u32(room, select_u32(from_pairs, chained, suffixes))
    guess = select_u32(thread == uint32(0), first, second)
    guess = select_u32(thread >= uint32(2), third, guess)
    guess = select_u32(from_pairs, guess, copied)
    barrier()  # all threads have read what some write now

    live = thread < wanted
    behind = uint32(thread + uint32(1))
    store_u32_if(at(token, behind), guess, live)
    store_u32_if(at(pos, behind), uint32(end + behind), live)
    store_u32_if(at(tokens, uint32(end + behind)), guess, live)
    one = thread == uint32(0)
    store_u32_if(token, last, one)
    store_u32_if(pos, end, one)
    store_u32_if(rows, uint32(wanted + uint32(1)), one)
    store_u32_if(at(state, uint32(IDLE)), select_u32(idle, uint32(1), uint32(0)), one)


@inline
def note_pairs(pairs, before, read, chosen, there, idle):
    """Enter what each row has chosen behind its token and the one in front; the last row wins."""
    one = (thread_index() == uint32(0)) & (idle == uint32(0))
    for row in range(uniform(there)):
        here = uint32(row)
        slot, tag = slot_of(shuffle_from_u32(before, here), shuffle_from_u32(read, here))
        store_u32x2_if(at(pairs, slot), tag, shuffle_from_u32(chosen, here), one)


@inline
def accept_tokens(
    logits, vocabulary, next_tokens, token, pos, rows, tokens, step, ring, state, log, clock, pairs
):
    """See `fusec.codegen.cuda.drafting.accept`."""
    lane = thread_index()
    there, idle = load_u32(rows), load_u32(at(state, uint32(IDLE)))
    position, made = load_u32(pos), load_u32(step)
    final = uint32(there - uint32(1))
    row = min_u32(lane, final)
    chosen = min_u32(load_u32(at(next_tokens, row)), uint32(vocabulary - 1))
    read = load_u32(at(token, row))
    following = load_u32(at(token, min_u32(uint32(row + uint32(1)), final)))
    in_front = load_u32(at(tokens, uint32(max_u32(position, uint32(1)) - uint32(1))))
    before = select_u32(
        lane == uint32(0),
        in_front,
        load_u32(at(token, uint32(max_u32(row, uint32(1)) - uint32(1)))),
    )
    good = is_finite(
        load_f32(at(logits, uint64(uint64(row) * uint64(vocabulary) + uint64(chosen))))
    )
    ends = (row == final) | (chosen != following) | (good ^ True)
    count = uint32(warp_min_u32(select_u32(ends, lane, uint32(31))) + uint32(1))
    kept = select_u32(good, chosen, uint32(0))
    newest = shuffle_from_u32(kept, uint32(count - uint32(1)))
    is_idle = idle != uint32(0)
    known = load_u32(at(tokens, uint32(position + uint32(1))))  # where it was done before
    count = select_u32(is_idle, uint32(0), count)

    graphs = load_u32(at(state, uint32(GRAPHS)))
    told = uint32(count | uint32(final << uint32(5)))
    now = globaltimer()
    warp_barrier()  # all lanes have read what some write now

    live = lane < count
    number = uint32(made + lane)
    shown = select_u32(good, chosen, uint32(NO_TOKEN))
    entry = uint32(number & uint32(RING - 1))
    store_u32x2_if(at(ring, entry), shown, uint32(number + uint32(1)), live)
    store_u32_if(at(tokens, uint32(position + uint32(1) + lane)), kept, live)
    first = lane == uint32(0)
    store_u32_if(token, select_u32(is_idle, known, newest), first)
    store_u32_if(pos, uint32(position + select_u32(is_idle, uint32(1), count)), first)
    store_u32_if(step, uint32(made + count), first)
    entry = uint32(graphs & uint32(RING - 1))
    low, high = uint32(now & uint64(0xFFFFFFFF)), uint32(now >> uint64(32))
    store_u32x2_if(at(clock, entry), low, high, first)
    store_u32x2_if(at(log, entry), told, uint32(graphs + uint32(1)), first)
    store_u32_if(at(state, uint32(GRAPHS)), uint32(graphs + uint32(1)), first)
    note_pairs(pairs, before, read, chosen, there, idle)


@inline
def weigh_token(logits, vocabulary, next_token, step, weights, scratch):
    """See `fusec.codegen.cuda.drafting.weigh`; `scratch` is 128 shared bytes."""
    thread, n = thread_index(), vocabulary
    made, chosen = load_u32(step), load_u32(next_token)
    best = load_f32(at(logits, min_u32(chosen, uint32(n - 1))))
    total = float32(0)
    for turn in range((n + 8 * THREADS - 1) // (8 * THREADS)):
        start = uint32(turn * 8 * THREADS + thread)
        values = eight(logits, start, THREADS, n)
        for k in range(8):
            inside = uint32(start + uint32(k * THREADS)) < uint32(n)
            total = total + select_f32(inside, exp_f32(values[k] - best), float32(0))
    _, total = running_sum(total, scratch)
    share = bits_u32(div_f32(float32(1), total))
    entry = uint32(uint32(made - uint32(1)) & uint32(RING - 1))
    store_u32x2_if(at(weights, entry), share, made, thread == uint32(0))
