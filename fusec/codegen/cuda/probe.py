"""Kernels that measure the GPU: its read bandwidth, and the time at some place in a graph."""

from __future__ import annotations

from fusec.codegen.cuda.toolchain import CudaKernel

READ_BYTES = 1 << 30
"""What `read` reads: far more than any cache."""

_READ = '''\
"""Reads device memory once, four loads of 16 bytes at a time."""

from numba import uint32

from fusec.codegen.cuda.device import at, block_index, load_weight_v4, store_u32_if, thread_index


def read(data, out):
    first = uint32((block_index() * uint32({threads}) + thread_index()) * uint32(4))
    total = uint32(0)
    for turn in range({turns}):
        i = uint32(first + uint32(turn) * uint32({step} * 4))
        a = load_weight_v4(at(data, i))
        b = load_weight_v4(at(data, uint32(i + uint32({step}))))
        c = load_weight_v4(at(data, uint32(i + uint32({step} * 2))))
        d = load_weight_v4(at(data, uint32(i + uint32({step} * 3))))
        total = uint32(total ^ a[0] ^ b[1] ^ c[2] ^ d[3])
    # memory holds zeros, so nothing is stored; the compiler does not know
    store_u32_if(at(out, uint32(0)), total, total != uint32(0))
'''

_STAMP = '''\
"""Writes the device's clock, in nanoseconds, at 2 * (tokens so far) + {offset}."""

from numba import uint32

from fusec.codegen.cuda.device import globaltimer


def {name}(counter, out):
    out[uint32(uint32(counter[0]) * uint32(2) + uint32({offset}))] = globaltimer()
'''


def read() -> CudaKernel:
    """`read(data, out)`: read READ_BYTES of zeros; `out`: one word."""
    grid, threads = 2048, 512
    step = grid * threads * 4  # words
    source = _READ.format(threads=threads, step=step, turns=READ_BYTES // (step * 16))
    return CudaKernel("read", source, ("u32*", "u32*"), threads, 2, grid)


def stamps() -> tuple[CudaKernel, CudaKernel]:
    """`stamp_begin` and `stamp_end(counter, out)`: the time around one token, u64[2 * tokens].

    The end comes behind the launch that has counted the token already: hence its offset, -1.
    """
    begin, end = (
        CudaKernel(name, _STAMP.format(name=name, offset=offset), ("u32*", "u64*"), 1)
        for name, offset in (("stamp_begin", 0), ("stamp_end", 0xFFFFFFFF))
    )
    return begin, end
