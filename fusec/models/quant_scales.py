"""Choosing the scales of quantised blocks by search, vectorised over blocks.

All functions take float32 arrays whose last axis is one block (or sub-block) that shares a scale.
A block x is to become s * v with every v on a grid of levels. For fixed v the best scale is the
least-squares one, s = <x, v> / <v, v>, and it leaves |x|^2 - <x, v>^2 / <v, v>: so candidates are
compared by their gain <x, v>^2 / <v, v>, and s is free of the guess that led to v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]

TINY = np.float32(1e-30)  # anything smaller is zero in half precision, whatever it is multiplied by


@dataclass(frozen=True, eq=False)
class Levels:
    """A grid of integer levels. The midpoints between neighbours are multiples of a half.

    `codes` and `values` give, for each cell of width a half from `start` up, the position and the
    value of the nearest level, so that rounding is one multiplication and one table look-up.
    """

    grid: tuple[int, ...]
    start: int
    codes: npt.NDArray[np.uint8]
    values: Floats

    @classmethod
    def of(cls, grid: Sequence[int]) -> Levels:
        """The levels `grid`, in rising order."""
        levels = np.array(grid, np.float32)
        centres = np.arange(2 * grid[0], 2 * grid[-1]).astype(np.float32) / 2 + np.float32(0.25)
        codes = np.abs(centres[:, None] - levels).argmin(1).astype(np.uint8)
        return cls(tuple(grid), grid[0], codes, levels[codes])

    def cells(self, x: Floats, inverse: Floats) -> Ints:
        """The table cells of x * inverse; beyond the ends of the table they are clipped later."""
        scaled = x * (2 * inverse[..., None])
        scaled -= 2 * self.start
        return scaled.astype(np.intp)

    def round(self, x: Floats, inverse: Floats) -> Floats:
        """The nearest level to x * inverse."""
        return self.values.take(self.cells(x, inverse), mode="clip")

    def encode(self, x: Floats, inverse: Floats) -> npt.NDArray[np.uint8]:
        """The position in the grid of the nearest level to x * inverse."""
        return self.codes.take(self.cells(x, inverse), mode="clip")


def reciprocal(x: Floats) -> Floats:
    """1 / x, and 0 where x is (as good as) 0."""
    return np.divide(1, x, out=np.zeros_like(x), where=np.abs(x) > TINY)


def half(x: Floats) -> Floats:
    """x as it will be read back from half precision; too large becomes infinite."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def dot(a: Floats, b: Floats) -> Floats:
    """Inner products over the last axis."""
    product: Floats = np.einsum("...i,...i->...", a, b)
    return product


def peak(x: Floats) -> Floats:
    """The element of largest magnitude of each block, with its sign."""
    at = np.abs(x).argmax(-1)[..., None]
    return np.take_along_axis(x, at, -1)[..., 0]


def best_scales(x: Floats, levels: Levels, guesses: Sequence[float], refinements: int) -> Floats:
    """A scale per block: the best of a search.

    A guess is the level (or a point near one) that the block's peak is put on. Each refinement
    rounds again at the best scale found so far.
    """
    inverse_peak = reciprocal(peak(x))
    gain = np.full(x.shape[:-1], -1, np.float32)
    scales = np.zeros_like(gain)
    for step in range(len(guesses) + refinements):
        if step < len(guesses):
            rounded = levels.round(x, np.float32(guesses[step]) * inverse_peak)
        else:
            rounded = levels.round(x, reciprocal(scales))
        projection = dot(x, rounded)
        found = projection * reciprocal(dot(rounded, rounded))
        better = projection * found > gain
        gain = np.where(better, projection * found, gain)
        scales = np.where(better, found, scales)
    return scales


def split_scales(
    x: Floats, scales: Floats, levels: Levels, limits: tuple[int, int], neighbours: int
) -> tuple[Floats, Floats]:
    """Write the scales of sub-blocks as a half-precision `d` times whole numbers within `limits`.

    x is [blocks, sub-blocks, elements], `scales` [blocks, sub-blocks]. The largest scale goes to
    the lower limit. Of the multiples up to `neighbours` away from the nearest, the one that leaves
    the least error is taken, and d is then refitted. Returns (d [blocks], multiples).
    """
    low, high = limits
    d = half(peak(scales) / np.float32(low))
    multiples = np.clip(np.rint(scales * reciprocal(d)[:, None]), low, high)
    if not neighbours:
        return d, multiples
    for _ in range(2):
        nearest = multiples
        least = np.full(scales.shape, np.inf, np.float32)
        for shift in range(-neighbours, neighbours + 1):
            trial = np.clip(nearest + shift, low, high)
            step = d[:, None] * trial
            residual = x - step[..., None] * levels.round(x, reciprocal(step))
            error = dot(residual, residual)
            multiples = np.where(error < least, trial, multiples)
            least = np.minimum(error, least)
        rounded = multiples[..., None] * levels.round(x, reciprocal(d[:, None] * multiples))
        flat, target = rounded.reshape(len(x), -1), x.reshape(len(x), -1)
        d = half(dot(target, flat) * reciprocal(dot(flat, flat)))
    return d, multiples


def best_affine(
    x: Floats, top: int, guesses: Sequence[float], refinements: int
) -> tuple[Floats, Floats]:
    """Scale s >= 0 and offset m >= 0 per block so that x is near s * q - m, q from 0 to `top`.

    A guess is the number of steps between the block's lowest and highest element. s and m are the
    least-squares fit to q, with m = 0 where the fit would make it negative.
    """
    low = np.minimum(x.min(-1), 0)
    steps = reciprocal(np.maximum(x.max(-1), 0) - low)
    count = np.float32(x.shape[-1])
    total, square = x.sum(-1), dot(x, x)
    least = np.full(x.shape[:-1], np.inf, np.float32)
    scale, offset = np.zeros_like(least), np.zeros_like(least)
    for step in range(len(guesses) + refinements):
        if step < len(guesses):
            q = affine_codes(x, np.float32(guesses[step]) * steps, -low, top)
        else:
            q = affine_codes(x, reciprocal(scale), offset, top)
        q_sum, q_square, cross = q.sum(-1), dot(q, q), dot(x, q)
        s = (count * cross - total * q_sum) * reciprocal(count * q_square - q_sum * q_sum)
        m = (s * q_sum - total) / count
        proportional = (m < 0) | (s <= 0)
        s = np.where(proportional, np.maximum(cross, 0) * reciprocal(q_square), s)
        m = np.where(proportional, 0, m)
        error = square - 2 * (s * cross - m * total)
        error += s * s * q_square - 2 * s * m * q_sum + count * m * m
        better = error < least
        least = np.where(better, error, least)
        scale, offset = np.where(better, s, scale), np.where(better, m, offset)
    return scale, offset


def affine_codes(x: Floats, inverse: Floats, offset: Floats, top: int) -> Floats:
    """round((x + offset) * inverse), clipped to 0..top."""
    q = (x + offset[..., None]) * inverse[..., None]
    return np.clip(np.rint(q), 0, top)


@dataclass(frozen=True, eq=False)
class AffineSplit:
    """Sub-block scales d * scales and offsets dmin * offsets: [blocks] and [blocks, sub-blocks]."""

    d: Floats
    dmin: Floats
    scales: Floats
    offsets: Floats

    def codes(self, x: Floats, top: int) -> Floats:
        """The nearest codes 0..top for x [blocks, sub-blocks, elements]."""
        inverse = reciprocal(self.d[:, None] * self.scales)
        return affine_codes(x, inverse, self.dmin[:, None] * self.offsets, top)

    def errors(self, x: Floats, top: int) -> Floats:
        """The squared error each sub-block is left with."""
        residual = x + (self.dmin[:, None] * self.offsets)[..., None]
        residual -= (self.d[:, None] * self.scales)[..., None] * self.codes(x, top)
        return dot(residual, residual)

    def moved(self, scale_shift: int, offset_shift: int, limit: int) -> AffineSplit:
        """The same d and dmin with other whole numbers, kept within 0..limit."""
        scales = np.clip(self.scales + scale_shift, 0, limit)
        return replace(self, scales=scales, offsets=np.clip(self.offsets + offset_shift, 0, limit))


def split_affine(
    x: Floats, scale: Floats, offset: Floats, *, top: int, limit: int, neighbours: int
) -> AffineSplit:
    """Write sub-block scales as d times, and offsets as dmin times, a whole number 0..limit.

    The largest goes to the limit. Pairs of whole numbers up to `neighbours` away from the nearest
    are tried, then d and dmin are refitted by least squares, and all that once more.
    """
    d, dmin = half(scale.max(-1) / limit), half(offset.max(-1) / limit)
    scales = np.clip(np.rint(scale * reciprocal(d)[:, None]), 0, limit)
    offsets = np.clip(np.rint(offset * reciprocal(dmin)[:, None]), 0, limit)
    best = AffineSplit(d, dmin, scales, offsets)
    shifts = [step for step in range(-neighbours, neighbours + 1) if step]
    for _ in range(2 if neighbours else 0):
        centre = best
        least = centre.errors(x, top)
        for shift, slide in product([0, *shifts], repeat=2):
            trial = centre.moved(shift, slide, limit)
            error = trial.errors(x, top)
            better = error < least
            least = np.where(better, error, least)
            best = replace(
                best,
                scales=np.where(better, trial.scales, best.scales),
                offsets=np.where(better, trial.offsets, best.offsets),
            )
        refitted = _refit(x, best, top)
        gained = refitted.errors(x, top).sum(-1) < best.errors(x, top).sum(-1)
        best = replace(
            best,
            d=np.where(gained, refitted.d, best.d),
            dmin=np.where(gained, refitted.dmin, best.dmin),
        )
    return best


def _refit(x: Floats, split: AffineSplit, top: int) -> AffineSplit:
    """Least-squares d and dmin for the split's whole numbers and the codes they lead to."""
    up = (split.scales[..., None] * split.codes(x, top)).reshape(len(x), -1)
    down = np.broadcast_to(-split.offsets[..., None], x.shape).reshape(len(x), -1)
    target = x.reshape(len(x), -1)
    uu, ud, dd = dot(up, up), dot(up, down), dot(down, down)
    ux, dx = dot(up, target), dot(down, target)
    inverse = reciprocal(uu * dd - ud * ud)
    d, dmin = (ux * dd - dx * ud) * inverse, (dx * uu - ux * ud) * inverse
    return replace(split, d=half(np.maximum(d, 0)), dmin=half(np.maximum(dmin, 0)))
