"""The orders of sums of docs/numbers.md for the CUDA target, in NumPy over whole matrices.

Written from that page, not from the emitters. Formats give levels, scales and minima as they
decode the file; all that is taken from the twins is an fma that rounds once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusec.codegen.cuda.twins_arithmetic import ARITHMETIC
from fusec.codegen.formats import FORMATS, QuantFormat
from fusec.codegen.formats.lanes import ArrayBlock

Array = np.ndarray[Any, Any]
fma = ARITHMETIC["fma"]
TILE_WARPS, CHUNK = 16, 4  # blocks of 32 elements that a warp takes at once


@dataclass(frozen=True)
class Blocks:
    """A matrix by blocks of 32: levels i64[rows, blocks, 32]; scales and minima f32[.., 1 or 2]."""

    levels: Array
    scales: Array
    mins: Array | None

    def columns(self, first: int, last: int) -> Blocks:
        """Blocks `first` to `last`."""
        cut = np.s_[:, first:last]
        mins = None if self.mins is None else self.mins[cut]
        return Blocks(self.levels[cut], self.scales[cut], mins)


def blocks_of(fmt: QuantFormat, data: Array) -> Blocks:
    """Rows of the file's bytes taken apart."""
    block = ArrayBlock(np.ascontiguousarray(data).reshape(-1, fmt.dtype.block_bytes))
    levels = np.stack([fmt.levels(block, span).array for span in range(fmt.spans)], axis=1)
    groups = 32 // fmt.group

    def of_groups(lanes: Any) -> Array:
        return np.asarray(lanes.array, np.float32).reshape(len(data), -1, groups)

    mins = of_groups(fmt.mins(block)) if fmt.has_min else None
    return Blocks(
        levels.astype(np.int64).reshape(len(data), -1, 32), of_groups(fmt.scales(block)), mins
    )


def fixed_point(x: Array, bits: int) -> tuple[Array, Array]:
    """Integers i64[blocks, 32] and their worth f32[blocks]: `bits` behind the largest's first."""
    blocks = x.reshape(-1, 32).astype(np.float64)
    exponents = np.frexp(np.abs(blocks).max(axis=1))[1] - 1
    quanta = np.ldexp(1.0, exponents - bits)
    return np.rint(blocks / quanta[:, None]).astype(np.int64), quanta.astype(np.float32)


def tree(parts: Array) -> Array:
    """A balanced tree over the last axis, neighbours first."""
    while parts.shape[-1] > 1:
        parts = parts[..., 0::2] + parts[..., 1::2]
    return parts[..., 0]


# --- rows ----------------------------------------------------------------------------------------


def by_rows(w: Blocks, x: Array) -> Array:
    """Lane b mod 32 takes block b, in increasing order; then the butterfly."""
    return tree(_by_lanes(w, x))


def by_parts(w: Blocks, x: Array, branch: int) -> Array:
    """A tree over the lanes of a part; the sum of parts, whole numbers of 2**-30, is rounded."""
    lanes = _by_lanes(w, x)
    parts = tree(lanes.reshape(len(lanes), -1, branch)).astype(np.float64)
    whole = np.rint(parts * 2.0**30).astype(np.int64).sum(axis=1)
    return whole.astype(np.float32) * np.float32(2.0**-30)


def _by_lanes(w: Blocks, x: Array) -> Array:
    """What each lane has of each row."""
    q, quanta = fixed_point(x, 22)
    q = np.minimum(q, 0x7FFFFF)
    rows, count = w.levels.shape[:2]
    lanes = np.zeros((rows, 32), np.float32)
    groups = np.split(np.arange(32), w.scales.shape[2])
    for b in range(count):
        s, quantum = lanes[:, b % 32], quanta[b]
        for k, mine in enumerate(groups):
            product = as_float((w.levels[:, b, mine] * digits_of(q[b, mine])[:, None]).sum(axis=-1))
            s = fma(product, w.scales[:, b, k] * quantum, s)
        for k, mine in enumerate(groups if w.mins is not None else ()):
            assert w.mins is not None
            total = np.float32(q[b].sum())
            if len(groups) > 1:
                total = as_float(digits_of(q[b, mine]).sum(axis=-1))
            s = fma(total, -w.mins[:, b, k] * quantum, s)
        lanes[:, b % 32] = s
    return lanes


def digits_of(q: Array) -> Array:
    """Three digits of a byte, lowest first: the upper one has the sign."""
    return np.stack([q & 255, q >> 8 & 255, q >> 16])


def as_float(sums: Array) -> Array:
    """Sums over three digits as one float: the upper two are exact before they are rounded.

    The lowest one has 1.5 * 2**23 more, which the upper two have less.
    """
    low, middle, high = sums
    more = 3 << 22
    upper = (high * 256 + middle - more // 256).astype(np.float32)
    return fma(upper, np.float32(256), (low + more).astype(np.float32))


def floats_by_rows(w: Array, x: Array, chunk: int) -> Array:
    """Lane c mod 32 takes chunk c: a sum for each place in a quad, one fma an element."""
    columns = -(-w.shape[1] // (32 * chunk)) * 32 * chunk
    lanes = np.zeros((len(w), 32, 4), np.float32)
    padded = [np.pad(a, ((0, 0), (0, columns - a.shape[1]))) for a in (w, x[None])]
    w, x = (a.reshape(len(a), -1, 32, chunk // 4, 4) for a in padded)
    for turn in range(w.shape[1]):
        for quad in range(chunk // 4):
            same = np.broadcast_to(x[:, turn, :, quad], lanes.shape)
            lanes = fma(w[:, turn, :, quad], same, lanes)
    return tree((lanes[..., 0] + lanes[..., 1]) + (lanes[..., 2] + lanes[..., 3]))


# --- tiles ---------------------------------------------------------------------------------------


def by_tiles(w: Blocks, x: Array) -> Array:
    """The halves of long rows apart, then added."""
    count = w.levels.shape[1]
    parts = 2 if count * 32 >= 8192 and count * 32 % 4096 == 0 else 1
    each = count // parts
    found = [
        _by_warps(w.columns(n * each, (n + 1) * each), x[n * each * 32 : (n + 1) * each * 32])
        for n in range(parts)
    ]
    return found[0] if parts == 1 else found[0] + found[1]


def _by_warps(w: Blocks, x: Array) -> Array:
    """Warp w takes every 16th chunk of four blocks; the warps' sums as a balanced tree."""
    q, quanta = fixed_point(x, 21)
    digits, halves = signed_digits(q), q.reshape(-1, 2, 16).sum(axis=-1).astype(np.float32)
    sums = np.zeros((4, len(w.levels), TILE_WARPS), np.float32)  # of the four lanes of a row
    less = np.zeros_like(sums)
    for first in range(0, w.levels.shape[1], CHUNK * TILE_WARPS):
        for k in range(CHUNK):
            b = first + CHUNK * np.arange(TILE_WARPS) + k  # a block of each warp's chunk
            scales = w.scales[:, b] * quanta[b, None]
            products = _tile_products(w.levels[:, b], digits[:, b], scales.shape[2])
            for lane, (product, half) in enumerate(products):
                sums[lane] = fma(product, scales[..., half], sums[lane])
            if w.mins is not None:
                lane, mins = k % (4 // scales.shape[2]), w.mins[:, b]
                if mins.shape[2] == 1:
                    total = mins[..., 0] * (halves[b, 0] + halves[b, 1])
                else:
                    total = fma(mins[..., 0], np.broadcast_to(halves[b, 0], mins.shape[:2]),
                                mins[..., 1] * halves[b, 1])  # fmt: skip
                less[lane] = fma(total, np.broadcast_to(quanta[b], total.shape), less[lane])
    worth = (256, 65536, 1, 0) if w.scales.shape[2] == 1 else (256, 1, 256, 1)
    lanes = [fma(s, np.float32(n), -m) for s, n, m in zip(sums, worth, less, strict=True)]
    return tree(tree(np.stack(lanes, axis=-1)))


def _tile_products(levels: Array, digits: Array, groups: int) -> list[tuple[Array, int]]:
    """What each lane of a row adds, and of which half the scale is."""
    low, middle, high = (levels * digit for digit in digits)
    if groups == 1:
        found = (middle, high, low)
        return [(sums.sum(axis=-1).astype(np.float32), 0) for sums in found]
    products = []
    for half, cut in enumerate((np.s_[..., :16], np.s_[..., 16:])):
        upper = (middle[cut] + 256 * high[cut]).sum(axis=-1).astype(np.float32)
        products += [(upper, half), (low[cut].sum(axis=-1).astype(np.float32), half)]
    return products


def signed_digits(q: Array) -> Array:
    """Three signed bytes, lowest first."""
    low = (q + 128 & 255) - 128
    rest = q - low >> 8
    middle = (rest + 128 & 255) - 128
    return np.stack([low, middle, rest - middle >> 8])


def format_of(name: str) -> QuantFormat:
    """A quantised format."""
    fmt = FORMATS[name]
    assert isinstance(fmt, QuantFormat)
    return fmt
