"""How products of many rows are shared out to thread blocks: the tiles, and which to take when.

A launch takes as long as the SM with the most tiles. So where tiles are few, their size is chosen
such that every SM has as many: with a few tiles more than SMs, most would wait half of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from fusec.codegen.cuda.shape import beside
from fusec.ir.choice import Tiling
from fusec.ir.graph import Graph, Node
from fusec.ir.op_groups import experts_of, is_grouped, used_by
from fusec.ir.op_matvec import is_fixed

WIDE, MEDIUM, NARROW, SLIM = 32, 24, 16, 8  # rows of the step in a tile
OF_ROWS = {
    WIDE: (Tiling(2, 2, 2, 2, slab=4, beside=3), Tiling(1, 2, 2, 2, slab=4, beside=4)),
    MEDIUM: (Tiling(2, 1, 1, 3, slab=4, beside=4),),
    NARROW: (
        Tiling(1, 2, 1, 1, slab=4, beside=2, deep=4),
        Tiling(1, 2, 1, 1, slab=4, beside=4, deep=2),
    ),
    SLIM: (Tiling(1, 1, 1, 1, slab=4, beside=2, deep=4),),
}
"""Rows of the step that a block takes -> how, for matrices by rows: the first that fits is best."""

OF_TILES = {
    WIDE: (Tiling(2, 2, 2, 2, slab=4, beside=2), Tiling(1, 2, 2, 2, slab=4, beside=4)),
    MEDIUM: (Tiling(2, 1, 1, 3, slab=4, beside=3),),
    NARROW: (
        Tiling(1, 2, 1, 1, slab=4, beside=1, deep=4),
        Tiling(1, 2, 1, 1, slab=4, beside=2, deep=2),
    ),
    SLIM: (Tiling(1, 1, 1, 1, slab=4, beside=2, deep=4),),
}
"""The same for matrices in tiles, whose sums take more registers."""

LARGE = {
    SLIM: Tiling(2, 1, 1, 1, slab=4, beside=4),
    NARROW: Tiling(2, 1, 1, 2, slab=4, beside=4),
}
"""The first way for few rows of the step and matrices with many tiles for every SM."""
MANY_TILES = 8  # of 16 rows, for every SM

DEEP = Tiling(1, 1, 1, 1, slab=8, beside=2, deep=8)
FLAT = Tiling(1, 1, 1, 1, slab=8, beside=2, deep=4)
TALL = Tiling(4, 1, 1, 1, slab=4, beside=2)
"""How a block takes `SLIM` rows of the step that it brings into fixed point itself: with many warps
for that, unless two layers of blocks fill the SMs, or one has more tiles than there are SMs."""

WARPS_TO_TRY = range(2, 17)  # of a block that brings vectors into fixed point itself
CROWDED = 8  # warps of a block, two of which have enough registers on an SM

PACE = {WIDE: (2.9, 4.0), MEDIUM: (3.7, 1.83), NARROW: (1.9, 1.8), SLIM: (2.0, 1.22)}
"""How long a launch takes: the first number, and the second for each tile of the SM that has most.
Only ratios count: these are microseconds for rows of 576 on an H200 (`docs/performance-log.md`)."""


def tilings(rows: int, width: int, sms: int, *, tiled: bool) -> tuple[Tiling, ...]:
    """How a block may take `width` rows of the step and matrices of so many rows, best first.

    `tiled`: matrices lie in tiles.
    """
    usual = (OF_TILES if tiled else OF_ROWS)[width]
    is_large = width in LARGE and rows >= 16 * MANY_TILES * sms
    return (LARGE[width], *usual) if is_large else usual


def own_tilings(rows: int, sms: int, *, normed: bool) -> tuple[Tiling, ...]:
    """The same where blocks bring `SLIM` rows of the step into fixed point themselves.

    `normed`: behind a norm. Launches with a norm take turns with others, and so do the places where
    they let the next one begin.
    """
    tiles = -(-rows // DEEP.rows)
    first = TALL if tiles > sms else FLAT if 2 * tiles > beside(sms) else DEEP
    release = "read" if normed else "wait"
    ways = dict.fromkeys((first, DEEP, FLAT, TALL))
    return tuple(replace(tiling, release=release) for tiling in ways)


def tilings_to_try(*, is_own: bool) -> Iterator[Tiling]:
    """Ways to measure beside the usual one. `is_own`: blocks bring vectors into fixed point."""
    if not is_own:
        ways = (*OF_ROWS.values(), *OF_TILES.values(), (*LARGE.values(), TALL))
        yield from (way for found in ways for way in found)
        return
    for across, deep in itertools.product((1, 2, 4, 8), (1, 2, 4, 8)):
        if across * deep in WARPS_TO_TRY:
            beside = 2 if across * deep <= CROWDED else 1
            for slab in (4, 8) if deep > 1 else (4,):
                yield Tiling(across, 1, 1, 1, slab=slab, beside=beside, deep=deep)


EXPERT_PACE = {SLIM: 2.8, NARROW: 3.4, WIDE: 4.0}
"""How long a tile of an expert's pairs takes, by its width, in the same ratios as `PACE`."""


def grouped_rows(node: Node, tokens: int) -> int:
    """Pairs in a tile of a product of rows that are sorted by expert.

    An expert's last tile is half empty, in the middle.
    """
    pairs = tokens * used_by(node) / experts_of(node)

    def time(width: int) -> float:
        return EXPERT_PACE[width] * max(1.0, pairs / width + 0.5)

    return min((width for width in EXPERT_PACE if width >= used_by(node)), key=time)


def tile_rows(region: Graph, tokens: int, sms: int) -> int:
    """Rows of the step in a tile of a kernel's products, for so many tokens and SMs."""
    if (product := next(filter(is_grouped, region.nodes), None)) is not None:
        return grouped_rows(product, tokens)
    rows = sum(n.inputs[1].shape[0] for n in region.nodes if is_fixed(n))
    if any(n.op == "fix" for n in region.nodes):
        return SLIM
    if tokens <= NARROW and rows >= 16 * MANY_TILES * sms:
        return SLIM if tokens <= SLIM else NARROW

    def time(width: int) -> float:
        tiles = -(-rows // OF_ROWS[width][0].rows) * -(-tokens // width)
        launch, tile = PACE[width]
        return launch + tile * -(-tiles // sms)

    return min(PACE, key=time)
