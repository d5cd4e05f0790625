"""Choosing a token from logits, by one block of THREADS threads."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32, uint64

from fusec.codegen.cuda.device import (
    at,
    atomic_add_shared_u32_if,
    barrier,
    bits_f32,
    div_f32,
    inline,
    load_f32,
    load_shared_f32,
    load_shared_u32,
    load_u32,
    max_u32,
    min_u32,
    select_f32,
    select_u32,
    shuffle_from_f32,
    some,
    store_f32_if,
    store_shared_f32_if,
    store_shared_u32,
    store_shared_u32_if,
    store_u32_if,
    thread_index,
    uniform,
    warp_add_s32,
    warp_max_u32,
    warp_min_u32,
)
from fusec.codegen.cuda.lib.math import exp_f32
from fusec.codegen.cuda.lib.reduce import eight, order_of

THREADS = 1024  # of the sampling block
ROOM = 2048  # candidates it can sort


@inline
def key_of(value, index):
    """64 bits that order like (value, lower index first); no two tokens have the same."""
    return uint64(uint64(uint64(order_of(value)) << uint64(32)) | uint64(uint32(~index)))


@inline
def block_sum(value, scratch):
    """Sum of a u32 over the block's threads, in every thread; `scratch` is 128 shared bytes."""
    thread = thread_index()
    lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
    part = uint32(warp_add_s32(value))
    barrier()
    store_shared_u32_if(uint32(scratch + warp * 4), part, lane == uint32(0))
    barrier()
    return uint32(warp_add_s32(load_shared_u32(uint32(scratch + lane * 4))))


@inline
def count_from(scores, n, low, scratch):
    """How many tokens have keys of at least `low`."""
    thread = thread_index()
    found = uint32(0)
    for step in range((n + 8 * THREADS - 1) // (8 * THREADS)):
        start = uint32(step * 8 * THREADS + thread)
        values = eight(scores, start, THREADS, n)
        for k in range(8):
            i = uint32(start + uint32(k * THREADS))
            reached = (key_of(values[k], i) >= low) & (i < uint32(n))
            found = uint32(found + select_u32(reached, uint32(1), uint32(0)))
    return block_sum(found, scratch)


@inline
def penalise(logits, scores, tokens, pos, n, penalty, window):
    """Copy the logits; those of tokens in the window are divided (or multiplied) by the penalty."""
    thread = thread_index()
    for step in range((n + 8 * THREADS - 1) // (8 * THREADS)):
        start = uint32(step * 8 * THREADS + thread)
        values = eight(logits, start, THREADS, n)
        for k in range(8):
            i = uint32(start + uint32(k * THREADS))
            store_f32_if(at(scores, i), values[k], i < uint32(n))
    barrier()
    seen = uint32(load_u32(pos) + uint32(1))
    seen = select_u32(penalty == float32(1), uint32(0), min_u32(seen, window))
    for step in range(uniform(uint32((seen + uint32(THREADS - 1)) // uint32(THREADS)))):
        back = uint32(step * THREADS + thread)
        inside = back < seen
        place = uint32(load_u32(pos) - select_u32(inside, back, uint32(0)))
        token = min_u32(load_u32(at(tokens, place)), uint32(n - 1))
        value = load_f32(at(logits, token))
        value = select_f32(value > float32(0), div_f32(value, penalty), value * penalty)
        store_f32_if(at(scores, token), value, inside)
    barrier()


@inline
def largest_and_low(scores, n, scratch, lows):
    """The largest order of a score, and one that at least as many tokens reach as threads look.

    That is the lowest of the threads' own largest.
    """
    thread = thread_index()
    lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
    best = uint32(0)
    for step in range((n + 8 * THREADS - 1) // (8 * THREADS)):
        start = uint32(step * 8 * THREADS + thread)
        values = eight(scores, start, THREADS, n)
        for k in range(8):
            inside = uint32(start + uint32(k * THREADS)) < uint32(n)
            best = max_u32(best, select_u32(inside, order_of(values[k]), uint32(0)))
    store_shared_u32_if(uint32(scratch + warp * 4), warp_max_u32(best), lane == uint32(0))
    store_shared_u32_if(uint32(lows + warp * 4), warp_min_u32(best), lane == uint32(0))
    barrier()
    top = warp_max_u32(load_shared_u32(uint32(scratch + lane * 4)))
    return top, warp_min_u32(load_shared_u32(uint32(lows + lane * 4)))


@inline
def threshold(scores, n, wanted, scratch, lows):
    """A key that at least `wanted` and at most ROOM tokens reach, by bisection.

    `wanted` is at most THREADS and at most n, so that the threads' own best are enough to start.
    """
    top, bottom = largest_and_low(scores, n, scratch, lows)
    low = uint64(uint64(bottom) << uint64(32))
    low = select_wide(uint32(n) < uint32(THREADS), uint64(0), low)
    high = uint64(uint64(uint64(top) << uint64(32)) | uint64(0xFFFFFFFF))  # too few reach beyond
    count = uniform(count_from(scores, n, low, scratch))
    for _ in range(64):
        if count <= ROOM:
            break
        middle = uint64(low + uint64(uint64(high - low) >> uint64(1)))
        reached = uniform(count_from(scores, n, middle, scratch))
        enough = reached >= uniform(wanted)
        low = select_wide(enough, middle, low)
        high = select_wide(enough, high, middle)
        if enough:
            count = reached
    return low


@inline
def select_wide(condition, yes, no):
    """`select` of u64."""
    low = select_u32(condition, uint32(yes & uint64(0xFFFFFFFF)), uint32(no & uint64(0xFFFFFFFF)))
    high = select_u32(condition, uint32(yes >> uint64(32)), uint32(no >> uint64(32)))
    return uint64(uint64(uint64(high) << uint64(32)) | uint64(low))


@inline
def gather(scores, n, low, keys, ids, counter):
    """Put the tokens whose keys reach `low` into shared memory, in any order, zeros behind them."""
    thread = thread_index()
    for half in range(ROOM // THREADS):
        store_shared_u32(uint32(keys + (half * THREADS + thread) * 4), uint32(0))
        store_shared_u32(uint32(ids + (half * THREADS + thread) * 4), uint32(0))
    store_shared_u32_if(counter, uint32(0), thread == uint32(0))
    barrier()
    for step in range((n + 8 * THREADS - 1) // (8 * THREADS)):
        start = uint32(step * 8 * THREADS + thread)
        values = eight(scores, start, THREADS, n)
        for k in range(8):
            i = uint32(start + uint32(k * THREADS))
            found = (key_of(values[k], i) >= low) & (i < uint32(n))
            if some(found):
                place = atomic_add_shared_u32_if(counter, uint32(1), found)
                place = min_u32(place, uint32(ROOM - 1))
                store_shared_u32_if(uint32(keys + place * 4), order_of(values[k]), found)
                store_shared_u32_if(uint32(ids + place * 4), uint32(~i), found)
    barrier()


@inline
def sort_descending(keys, ids):
    """Bitonic sort (Batcher 1968) of ROOM pairs, by two words as one number."""
    thread = thread_index()
    for outer in range(11):
        for inner in range(outer + 1):
            distance = uint32(1 << (outer - inner))
            # thread t compares the t-th pair of places that differ in the bit `distance`
            below = uint32(thread & uint32(distance - uint32(1)))
            a = uint32(uint32(thread - below) * 2 + below)
            b = uint32(a + distance)
            down = uint32(a & uint32(2 << outer)) == uint32(0)
            ka, kb = load_shared_u32(uint32(keys + a * 4)), load_shared_u32(uint32(keys + b * 4))
            ia, ib = load_shared_u32(uint32(ids + a * 4)), load_shared_u32(uint32(ids + b * 4))
            less = (ka < kb) | ((ka == kb) & (ia < ib))
            more = (ka > kb) | ((ka == kb) & (ia > ib))
            swap = (down & less) | ((down ^ True) & more)
            store_shared_u32_if(uint32(keys + a * 4), kb, swap)
            store_shared_u32_if(uint32(keys + b * 4), ka, swap)
            store_shared_u32_if(uint32(ids + a * 4), ib, swap)
            store_shared_u32_if(uint32(ids + b * 4), ia, swap)
            barrier()


@inline
def value_of(order):
    """The float that `order_of` maps to these bits."""
    positive = uint32(order >> uint32(31)) != uint32(0)
    return bits_f32(select_u32(positive, uint32(order & uint32(0x7FFFFFFF)), uint32(~order)))


@inline
def running_sum(value, scratch):
    """Sums over the threads up to this one, and over all: by distances, warp by warp."""
    thread = thread_index()
    lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
    value = scan_warp(value, lane)
    barrier()
    store_shared_f32_if(uint32(scratch + warp * 4), value, lane == uint32(31))
    barrier()
    ends = scan_warp(load_shared_f32(uint32(scratch + lane * 4)), lane)
    before = shuffle_from_f32(ends, uint32((warp + uint32(31)) & uint32(31)))
    before = select_f32(warp == uint32(0), float32(0), before)
    return before + value, shuffle_from_f32(ends, uint32(31))


@inline
def scan_warp(value, lane):
    """Inclusive sums over the lanes (Hillis & Steele 1986)."""
    for k in range(5):
        distance = uint32(1 << k)
        other = shuffle_from_f32(value, uint32((lane - distance) & uint32(31)))
        value = value + select_f32(lane >= distance, other, float32(0))
    return value


@inline
def philox(key_low, key_high, counter):
    """First word of Philox4x32-10 (Salmon et al. 2011) at (counter, 0, 0, 0)."""
    a, b, c, d = counter, uint32(0), uint32(0), uint32(0)
    for _ in range(10):
        first = uint64(uint64(0xD2511F53) * uint64(a))
        second = uint64(uint64(0xCD9E8D57) * uint64(c))
        a = uint32(uint32(second >> uint64(32)) ^ b ^ key_low)
        c = uint32(uint32(first >> uint64(32)) ^ d ^ key_high)
        b = uint32(second & uint64(0xFFFFFFFF))
        d = uint32(first & uint64(0xFFFFFFFF))
        key_low = uint32(key_low + uint32(0x9E3779B9))
        key_high = uint32(key_high + uint32(0xBB67AE85))
    return a


@inline
def sample_token(
    logits, scores, next_token, pos, tokens, params, n, keys, ids, scratch, lows, counter
):
    """See `fusec.codegen.cuda.control.sample`; the last five are shared memory."""
    thread = thread_index()
    temperature = bits_f32(load_u32(params))
    top_k = load_u32(at(params, uint32(1)))
    top_p, min_p = (
        bits_f32(load_u32(at(params, uint32(2)))),
        bits_f32(load_u32(at(params, uint32(3)))),
    )
    penalty = bits_f32(load_u32(at(params, uint32(4))))
    window = load_u32(at(params, uint32(5)))
    seed_low, seed_high = load_u32(at(params, uint32(6))), load_u32(at(params, uint32(7)))

    penalise(logits, scores, tokens, pos, n, penalty, window)
    most = uint32(min(n, THREADS))
    wanted = select_u32(top_k == uint32(0), most, min_u32(top_k, most))
    wanted = select_u32(temperature == float32(0), uint32(1), wanted)
    low = threshold(scores, n, wanted, scratch, lows)
    gather(scores, n, low, keys, ids, counter)
    sort_descending(keys, ids)

    score = value_of(load_shared_u32(uint32(keys + thread * 4)))
    best = value_of(load_shared_u32(keys))
    candidate = thread < wanted
    weight = select_f32(candidate, exp_f32(score - best), float32(0))
    upto, all_weights = running_sum(weight, scratch)
    kept = candidate & ((thread == uint32(0)) | (upto - weight < top_p * all_weights))
    kept = kept & (weight >= min_p)
    hot = select_f32(temperature == float32(0), float32(1), temperature)
    weight = select_f32(kept, exp_f32(div_f32(score - best, hot)), float32(0))
    upto, all_weights = running_sum(weight, scratch)
    bits = philox(seed_low, seed_high, uint32(load_u32(pos) + uint32(1)))
    point = float32(uint32(bits >> uint32(8))) * float32(2.0**-24) * all_weights
    left = block_sum(select_u32(kept, uint32(1), uint32(0)), scratch)
    passed = block_sum(select_u32(kept & (upto <= point), uint32(1), uint32(0)), scratch)
    place = min_u32(passed, uint32(left - uint32(1)))
    chosen = load_shared_u32(uint32(ids + place * 4))
    store_u32_if(next_token, uint32(~chosen), thread == uint32(0))
