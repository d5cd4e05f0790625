"""Reductions of a whole row by one block."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import float32, uint32

from fusec.codegen.cuda.device import (
    at,
    barrier,
    bits_u32,
    inline,
    load_f32,
    load_shared_u32,
    max_u32,
    min_u32,
    select_u32,
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
def argmax(x, n, out, threads, keys, indices):
    """Index of the largest of n floats, the first on ties, by a block of `threads`."""
    thread = thread_index()
    key, index = uint32(0), uint32(0)
    for step in range((n + 8 * threads - 1) // (8 * threads)):
        start = uint32(step * 8 * threads + thread)
        values = eight(x, start, threads, n)
        for k in range(8):
            new = order_of(values[k])
            here = min_u32(uint32(start + uint32(k * threads)), uint32(n - 1))
            index = select_u32(new > key, here, index)
            key = max_u32(new, key)
    key, index = block_best(key, index, threads, keys, indices)
    store_u32_if(out, index, thread == uint32(0))
