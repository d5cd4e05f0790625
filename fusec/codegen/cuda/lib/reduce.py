"""The index of a row's largest element, by one block or by several and one.

Ties go to the lowest index. NaN counts as -inf, and a row of nothing else has index 0.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import (
    at,
    barrier,
    bits_f32,
    bits_u32,
    inline,
    load_f32,
    load_shared_u32,
    load_u32,
    max_f32,
    min_u32,
    select_f32,
    select_u32,
    store_f32_if,
    store_shared_u32_if,
    store_u32_if,
    thread_index,
    warp_max_u32,
    warp_min_u32,
)


@inline
def order_of(x):
    """Unsigned integers that order like floats; both zeros are one."""
    bits = bits_u32(x + float32(0))
    negative = uint32(bits >> uint32(31)) != uint32(0)
    return select_u32(negative, uint32(~bits), uint32(bits | uint32(0x80000000)))


@inline
def of_order(key):
    """The float that `order_of` made this of."""
    positive = uint32(key >> uint32(31)) != uint32(0)
    return bits_f32(select_u32(positive, uint32(key & uint32(0x7FFFFFFF)), uint32(~key)))


@inline
def warp_best(key, index):
    """The largest key of a warp, and the lowest index that has it."""
    top = warp_max_u32(key)
    return top, warp_min_u32(select_u32(key == top, index, uint32(0xFFFFFFFF)))


@inline
def block_best(key, index, threads, keys, indices):
    """`warp_best` over the block, in every thread; `keys` and `indices` are 128 shared bytes."""
    thread = thread_index()
    lane, warp = uint32(thread & uint32(31)), uint32(thread >> uint32(5))
    key, index = warp_best(key, index)
    store_shared_u32_if(uint32(keys + warp * 4), key, lane == uint32(0))
    store_shared_u32_if(uint32(indices + warp * 4), index, lane == uint32(0))
    barrier()
    mine = min_u32(lane, uint32(threads // 32 - 1))
    key = load_shared_u32(uint32(keys + mine * 4))
    index = load_shared_u32(uint32(indices + mine * 4))
    return warp_best(key, index)


@inline
def eight(x, i, stride, n):
    """Elements i, i + stride, ... of n, all under way at once; behind the end, the last one."""
    last = uint32(n - 1)
    return (
        load_f32(at(x, min_u32(i, last))),
        load_f32(at(x, min_u32(uint32(i + uint32(stride)), last))),
        load_f32(at(x, min_u32(uint32(i + uint32(2 * stride)), last))),
        load_f32(at(x, min_u32(uint32(i + uint32(3 * stride)), last))),
        load_f32(at(x, min_u32(uint32(i + uint32(4 * stride)), last))),
        load_f32(at(x, min_u32(uint32(i + uint32(5 * stride)), last))),
        load_f32(at(x, min_u32(uint32(i + uint32(6 * stride)), last))),
        load_f32(at(x, min_u32(uint32(i + uint32(7 * stride)), last))),
    )


@inline
def largest_of_eight(v):
    """Their maximum; NaN if all of them are."""
    low = max_f32(max_f32(v[0], v[1]), max_f32(v[2], v[3]))
    return max_f32(low, max_f32(max_f32(v[4], v[5]), max_f32(v[6], v[7])))


@inline
def place_in_eight(v, wanted, i, stride, n, otherwise):
    """The lowest of the indices of `eight` whose element is the wanted one."""
    for back in range(8):
        k = 7 - back
        here = min_u32(uint32(i + uint32(k * stride)), uint32(n - 1))
        otherwise = select_u32(v[k] == wanted, here, otherwise)
    return otherwise


@inline
def argmax(x, n, out, threads, keys, indices):
    """Index of the largest of n floats, the first on ties, by a block of `threads`.

    What a thread does for every element is the time, so of 16 it keeps the largest and where they
    began, and looks for the place at the end.
    """
    thread = thread_index()
    best, found = bits_f32(uint32(0xFF800000)), thread
    for step in range((n + 16 * threads - 1) // (16 * threads)):
        start = uint32(step * 16 * threads + thread)
        first = eight(x, start, threads, n)
        second = eight(x, uint32(start + uint32(8 * threads)), threads, n)
        top = max_f32(largest_of_eight(first), largest_of_eight(second))
        found = select_u32(top > best, start, found)
        best = max_f32(top, best)
    half = uint32(found + uint32(8 * threads))
    first, second = eight(x, found, threads, n), eight(x, half, threads, n)
    index = place_in_eight(second, best, half, threads, n, uint32(n - 1))
    index = place_in_eight(first, best, found, threads, n, index)
    top, index = block_best(order_of(best), index, threads, keys, indices)
    index = select_u32(top == uint32(0x007FFFFF), uint32(0), index)  # the order of -inf
    store_u32_if(out, index, thread == uint32(0))


@inline
def better(x, i, live, best, found):
    """The larger of element i, if it is `live`, and the best so far; its index.

    A thread's elements come in the order of their indices.
    """
    wins = live & (x > best)
    return select_f32(wins, x, best), select_u32(wins, i, found)


@inline
def store_part(best, found, tops, places, block, blocks, parts, threads, room):
    """The best of a block's elements, and its index, as one of the parts of `argmax_parts`.

    The block writes it at its own number, and again in steps of `blocks`, so that all `parts` are
    written. `room` is 256 shared bytes.
    """
    thread = thread_index()
    top, index = block_best(order_of(best), found, threads, room, uint32(room + 128))
    value = of_order(top)
    for turn in range((parts + blocks * threads - 1) // (blocks * threads)):
        part = uint32(uint32(turn * threads + thread) * uint32(blocks) + block)
        store_f32_if(at(tops, part), value, part < uint32(parts))
        store_u32_if(at(places, part), index, part < uint32(parts))


@inline
def four_parts(tops, places, i, stride, count):
    """Parts i, i + stride, ... of `count`, all under way at once; behind the end, the last one."""
    last = uint32(count - 1)
    a, b = min_u32(i, last), min_u32(uint32(i + uint32(stride)), last)
    c, d = (
        min_u32(uint32(i + uint32(2 * stride)), last),
        min_u32(uint32(i + uint32(3 * stride)), last),
    )
    return (
        (load_f32(at(tops, a)), load_u32(at(places, a))),
        (load_f32(at(tops, b)), load_u32(at(places, b))),
        (load_f32(at(tops, c)), load_u32(at(places, c))),
        (load_f32(at(tops, d)), load_u32(at(places, d))),
    )


@inline
def best_of_parts(tops, places, count, threads, keys, indices):
    """The largest of the parts of `argmax_parts`, and its index, in every thread of a block."""
    thread = thread_index()
    key, index = uint32(0), uint32(0xFFFFFFFF)
    for step in range((count + 4 * threads - 1) // (4 * threads)):
        for part in four_parts(tops, places, uint32(step * 4 * threads + thread), threads, count):
            other, place = order_of(part[0]), part[1]
            wins = (other > key) | ((other == key) & (place < index))
            key, index = select_u32(wins, other, key), select_u32(wins, place, index)
    key, index = block_best(key, index, threads, keys, indices)
    return of_order(key), index


@inline
def argmax_combine(tops, places, n, out, threads, keys, indices):
    """Write the index of `best_of_parts` to `out`."""
    _, index = best_of_parts(tops, places, n, threads, keys, indices)
    store_u32_if(out, index, thread_index() == uint32(0))
