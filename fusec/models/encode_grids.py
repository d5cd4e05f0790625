"""Encoders of the IQ formats whose elements are rows of a grid times a scale.

For a given scale every element is rounded to a value that occurs in the grid, and rows near the
eight (or four) rounded elements are looked up in a table of all such combinations. The scale is the
best of a few guesses by its gain (`quant_scales`), then a multiple of the block's d.

Block layouts are those of llama.cpp (ggml-common.h), as the modules of `fusec.codegen.formats`
draw them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusec.codegen.formats.grids import grid_of
from fusec.models.quant_bytes import Bytes, Search, f16_bytes
from fusec.models.quant_scales import Floats, dot, half, reciprocal

Indices = npt.NDArray[np.uint16]

Guesses = dict[Search, list[float]]

AT_ONCE = 512  # combinations compared with a whole grid at a time
NEAR = 24  # rows kept for a combination


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid, `rows` [n, 8 or 4], whose elements are `values`.

    `near`: for each combination of values the rows that are nearest to it, the nearest first.
    """

    rows: Floats
    values: Floats
    near: Indices

    @classmethod
    def of(cls, rows: Floats) -> Grid:
        """The table for the values that occur in `rows`."""
        values = np.unique(rows)
        size = rows.shape[1]
        places = np.indices((values.size,) * size).reshape(size, -1).T
        points, squares = values[places], (rows * rows).sum(1)
        parts = []
        for start in range(0, len(points), AT_ONCE):
            distances = squares - 2 * points[start : start + AT_ONCE] @ rows.T
            few = np.argpartition(distances, NEAR, axis=1)[:, :NEAR]
            order = np.take_along_axis(distances, few, 1).argsort(1, kind="stable")
            parts.append(np.take_along_axis(few, order, 1))
        return cls(rows, values, np.concatenate(parts).astype(np.uint16))

    def indices(self, x: Floats, search: Search) -> Indices:
        """Row numbers [..., n] for x [..., n, 8 or 4] in units of the scale.

        A quick search takes the row nearest to the rounded elements, a full one that of the few
        near them that is nearest to the elements themselves.
        """
        places = np.zeros(x.shape, np.intp)
        for middle in (self.values[1:] + self.values[:-1]) / 2:
            places += x > middle
        weights = self.values.size ** np.arange(self.rows.shape[1])[::-1]
        near = self.near[places @ weights]
        if search == "quick":
            return near[..., 0]
        residual = x[..., None, :] - self.rows[near]
        best = dot(residual, residual).argmin(-1)[..., None]
        return np.take_along_axis(near, best, -1)[..., 0]


@functools.cache
def grid(name: str, factor: int = 1, move: int = 0) -> Grid:
    """gguf-py's grid of a type, times `factor` plus `move`."""
    return Grid.of(grid_of(name).astype(np.float32) * factor + np.float32(move))


def choose(
    x: Floats, table: Grid, guesses: Guesses, search: Search, multiples: int = 16
) -> tuple[Floats, Bytes, Indices]:
    """d [n], multiples [n, groups] and rows [n, groups, rows] for x [n, groups, rows, 8 or 4].

    A group's scale is d * (2 * multiple + 1), the multiple below `multiples`. A guess is the point
    that the largest magnitude of a group is put on.
    """
    flat = x.reshape(*x.shape[:2], -1)
    inverse_peak = reciprocal(np.abs(flat).max(-1))
    gain = np.full(flat.shape[:2], -1, np.float32)
    scale = np.zeros_like(gain)
    for guess in guesses[search]:
        numbers = table.indices(x * (guess * inverse_peak)[..., None, None], "quick")
        rows = table.rows[numbers].reshape(flat.shape)
        projection = dot(flat, rows)
        found = np.maximum(projection, 0) * reciprocal(dot(rows, rows))
        better = projection * found > gain
        gain = np.where(better, projection * found, gain)
        scale = np.where(better, found, scale)
    d = half(scale.max(-1) / np.float32(2 * multiples - 1))
    stored = np.rint((scale * reciprocal(d)[:, None] - 1) / 2)
    stored = np.clip(stored, 0, multiples - 1)
    step = d[:, None] * (2 * stored + 1)
    chosen = table.indices(x * reciprocal(step)[..., None, None], search)
    return d, stored.astype(np.uint8), chosen


GUESSES: dict[str, Guesses] = {
    "iq2": {"full": [26.0 + 3 * step for step in range(16)], "quick": [40.0, 50.0]},
    "iq3_xxs": {"full": [40.0 + 2 * step for step in range(16)], "quick": [56.0, 64.0]},
    "iq3_s": {"full": [10.0 + 0.5 * step for step in range(16)], "quick": [13.5, 15.5]},
    "iq1": {"full": [6.0 + step for step in range(16)], "quick": [9.0, 13.0]},
}


def split_signs(x: Floats, even: bool) -> tuple[Floats, Bytes]:
    """Magnitudes and a byte of signs for every eight of [n, 256].

    With `even` every eight have an even number of minuses: where they would not, the smallest
    magnitude is taken for its negative.
    """
    eights = x.reshape(-1, 32, 8)
    minus = eights < 0
    size = np.abs(eights)
    if even:
        odd = minus.sum(-1) % 2 == 1
        smallest = size.argmin(-1)
        n, k = np.nonzero(odd)
        where = n, k, smallest[n, k]
        minus[where] ^= True
        size[where] *= -1
    return size.reshape(x.shape), np.packbits(minus, axis=-1, bitorder="little")[..., 0]


def _words(signs: Bytes, scales: Bytes) -> Bytes:
    """Words of four times seven signs with a scale above: the bytes of [n, 8] u32."""
    seven = (signs & 127).astype(np.uint32).reshape(len(signs), 8, 4)
    word = np.bitwise_or.reduce(seven << np.array([0, 7, 14, 21], np.uint32), axis=-1)
    return (word | scales.astype(np.uint32) << 28)[..., None].view(np.uint8)


def _nibble_scales(scales: Bytes) -> Bytes:
    """[n, 2k] -> [n, k]: even ones low, odd ones high."""
    return scales[:, ::2] | scales[:, 1::2] << np.uint8(4)


def encode_iq2_xxs(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 66]."""
    size, signs = split_signs(x, even=True)
    d, scales, rows = choose(size.reshape(-1, 8, 4, 8), grid("IQ2_XXS"), GUESSES["iq2"], search)
    words = np.concatenate([rows.astype(np.uint8), _words(signs, scales)], axis=-1)
    return np.hstack([f16_bytes(8 * d), words.reshape(len(x), -1)])


def encode_iq2_xs(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 74]."""
    size, signs = split_signs(x, even=True)
    d, scales, rows = choose(size.reshape(-1, 16, 2, 8), grid("IQ2_XS"), GUESSES["iq2"], search)
    both = rows.reshape(len(x), 32) | (signs & 127).astype(np.uint16) << 9
    return np.hstack([f16_bytes(8 * d), both.view(np.uint8), _nibble_scales(scales)])


def encode_iq2_s(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 82]."""
    size, signs = split_signs(x, even=False)
    d, scales, rows = choose(size.reshape(-1, 16, 2, 8), grid("IQ2_S"), GUESSES["iq2"], search)
    rows = rows.reshape(len(x), 8, 4)
    high = np.bitwise_or.reduce(rows >> 8 << np.arange(0, 8, 2, dtype=np.uint16), axis=-1)
    low = rows.astype(np.uint8).reshape(len(x), 32)
    return np.hstack([f16_bytes(8 * d), low, signs, high.astype(np.uint8), _nibble_scales(scales)])


def encode_iq3_xxs(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 98]."""
    size, signs = split_signs(x, even=True)
    d, scales, rows = choose(size.reshape(-1, 8, 8, 4), grid("IQ3_XXS"), GUESSES["iq3_xxs"], search)
    words = _words(signs, scales).reshape(len(x), -1)
    return np.hstack([f16_bytes(4 * d), rows.astype(np.uint8).reshape(len(x), -1), words])


def encode_iq3_s(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 110]."""
    size, signs = split_signs(x, even=False)
    d, scales, rows = choose(size.reshape(-1, 8, 8, 4), grid("IQ3_S"), GUESSES["iq3_s"], search)
    ninth = np.packbits(rows >> 8, axis=-1, bitorder="little")[..., 0]
    low = rows.astype(np.uint8).reshape(len(x), -1)
    return np.hstack([f16_bytes(d), low, ninth, signs, _nibble_scales(scales)])


def _both_moves(
    x: Floats, search: Search, groups: int, moved: int
) -> tuple[Floats, Bytes, Indices, Bytes]:
    """d, scales [n, groups], rows [n, 32] and whether each of `moved` parts moves down.

    The scales are searched for the grid that is not moved.
    """
    parts = x.reshape(len(x), groups, -1, 8)
    d, scales, _ = choose(parts, grid("IQ1_S", 8), GUESSES["iq1"], search, 8)
    step = np.repeat(d[:, None] * (2 * scales + 1), 32 // groups, axis=1)
    scaled = x.reshape(len(x), 32, 8) * reciprocal(step)[..., None]
    rows, errors = [], []
    for move in (1, -1):
        table = grid("IQ1_S", 8, move)
        rows.append(table.indices(scaled, search))
        residual = scaled - table.rows[rows[-1]]
        errors.append(dot(residual, residual).reshape(len(x), moved, -1).sum(-1))
    down = errors[1] < errors[0]
    chosen = np.where(np.repeat(down, 32 // moved, axis=1), rows[1], rows[0])
    return d, scales, chosen, down.astype(np.uint8)


def encode_iq1_s(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 50]."""
    d, scales, rows, down = _both_moves(x, search, groups=8, moved=8)
    rows = rows.reshape(len(x), 8, 4)
    upper = np.bitwise_or.reduce(rows >> 8 << np.arange(0, 12, 3, dtype=np.uint16), axis=-1)
    upper = upper | scales.astype(np.uint16) << 12 | down.astype(np.uint16) << 15
    low = rows.astype(np.uint8).reshape(len(x), 32)
    return np.hstack([f16_bytes(8 * d), low, upper.view(np.uint8)])


def encode_iq1_m(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 56]."""
    d, scales, rows, down = _both_moves(x, search, groups=16, moved=32)
    nibbles = (rows >> 8).astype(np.uint8) | down << np.uint8(3)
    words = scales.astype(np.uint16).reshape(-1, 4, 4) << np.arange(0, 12, 3, dtype=np.uint16)
    bits = f16_bytes(8 * d).view(np.uint16) >> np.arange(0, 16, 4, dtype=np.uint16) & 15
    words = np.bitwise_or.reduce(words, axis=-1) | bits << 12
    return np.hstack([rows.astype(np.uint8), _nibble_scales(nibbles), words.view(np.uint8)])


ENCODERS: dict[str, Callable[[Floats, Search], Bytes]] = {
    "iq1_s": encode_iq1_s,
    "iq1_m": encode_iq1_m,
    "iq2_xxs": encode_iq2_xxs,
    "iq2_xs": encode_iq2_xs,
    "iq2_s": encode_iq2_s,
    "iq3_xxs": encode_iq3_xxs,
    "iq3_s": encode_iq3_s,
}
