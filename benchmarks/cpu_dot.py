"""Weights per second of the CPU target's dot products, beside the machine's read bandwidth.

    python benchmarks/cpu_dot.py [--threads 2] [--formats iq4_nl,q8_0]

Columns: G weights/s and GB/s of weight bytes, best of several runs, rows split over the threads;
`x4` is `dot4`, counted per weight and token. Small matrices stay in a core's cache; the large one
(49152 rows, the vocabulary) streams from memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from fusec.codegen import formats
from fusec.codegen.cpu import vector
from fusec.codegen.cpu.vector import ptr_f32, ptr_u8

SHAPES = ((1536, 576), (576, 1536), (49152, 576))


def seconds(work: Callable[[int], Any], threads: int, executor: ThreadPoolExecutor) -> float:
    """The best wall time of `work(thread)` on all threads."""
    best = float("inf")
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        start = time.perf_counter()
        list(executor.map(work, range(threads)))
        best = min(best, time.perf_counter() - start)
    return best


def row_kernels(name: str) -> tuple[Any, Any]:
    """Row loops over `dot` and `dot4` of a format."""
    dot, dot4 = getattr(vector, f"dot_{name}"), getattr(vector, f"dot4_{name}")

    @njit(nogil=True)
    def rows1(w, row_bytes, x, n, first, last, repeats):  # type: ignore[no-untyped-def]
        total = np.float32(0)
        for _ in range(repeats):
            for r in range(first, last):
                total += dot(ptr_u8(w + r * row_bytes), ptr_f32(x), n)
        return total

    @njit(nogil=True)
    def rows4(w, row_bytes, x, n, first, last, repeats):  # type: ignore[no-untyped-def]
        total = np.float32(0)
        for _ in range(repeats):
            for r in range(first, last):
                t = dot4(ptr_u8(w + r * row_bytes), ptr_f32(x), n, n)
                total += t[0] + t[1] + t[2] + t[3]
        return total

    return rows1, rows4


def bench_format(name: str, threads: Sequence[int], executor: ThreadPoolExecutor) -> None:
    """Print a line per shape and number of threads."""
    weights = formats.get(name)
    kernels = row_kernels(name)
    for rows, n in SHAPES:
        if n % weights.dtype.block:
            continue
        for count in threads:
            one, four = (measure(kernel, weights, rows, n, count, executor) for kernel in kernels)
            gb = one * weights.row_bytes(n) / n
            print(
                f"{name:7} {rows:6} x {n:<5} {count} thread(s) {one:7.1f} Gw/s {gb:6.1f} GB/s"
                f"   x4 {4 * four:7.1f} Gw/s",
                flush=True,
            )


def measure(
    kernel: Any,
    weights: formats.Format,
    rows: int,
    n: int,
    count: int,
    executor: ThreadPoolExecutor,
) -> float:
    """G weights/s of a matrix of random bytes, its rows split over `count` threads."""
    rng = np.random.default_rng(0)
    row_bytes = weights.row_bytes(n)
    w = rng.integers(0, 256, rows * row_bytes, dtype=np.uint8)
    x = rng.integers(-9, 9, 4 * n).astype(np.float32)
    repeats = max(1, 20_000_000 // (rows * n))

    def work(thread: int) -> Any:
        bounds = rows * thread // count, rows * (thread + 1) // count
        addresses = w.ctypes.data, row_bytes, x.ctypes.data
        return kernel(*addresses, n, *bounds, repeats)

    work(0)
    return repeats * rows * n / seconds(work, count, executor) / 1e9


@njit(nogil=True)
def _read(data):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for value in data:
        total += value
    return total


def bench_bandwidth(threads: Sequence[int], executor: ThreadPoolExecutor) -> None:
    """Print how fast memory is read when nothing is computed."""
    data = np.ones(32 << 20, np.int64)
    for count in threads:

        def work(thread: int, count: int = count) -> Any:
            return _read(data[data.size * thread // count : data.size * (thread + 1) // count])

        work(0)
        gb = data.nbytes / seconds(work, count, executor) / 1e9
        print(f"read    256 MiB        {count} thread(s) {gb:22.1f} GB/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=2, help="most threads to measure")
    parser.add_argument("--formats", default=",".join(formats.FORMATS), help="comma-separated")
    options = parser.parse_args()
    threads = sorted({1, options.threads})
    with ThreadPoolExecutor(options.threads) as executor:
        bench_bandwidth(threads, executor)
        for name in options.formats.split(","):
            bench_format(name, threads, executor)


if __name__ == "__main__":
    main()
