"""How products of many rows are shared out to thread blocks: the tiles, and which to take when.

A launch takes as long as the SM with the most tiles. So where tiles are few, their size is chosen
such that every SM has as many: with 144 tiles on 132 SMs, most would wait half of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph
from fusec.ir.op_matvec import is_fixed

WARP = 32


@dataclass(frozen=True)
class Tiling:
    """How a block shares a tile out: `across` x `along` warps, each of `high` x `wide` fragments.

    A fragment is 16 rows of the matrix by 8 of the step. `deep` (a power of two) times as many
    warps share the columns: each takes a branch of the tree of leaves. `slab`: blocks of 32 columns
    that a warp takes at a time; `beside`: thread blocks that should fit one SM; `stages`: slabs in
    shared memory, of which all but one are on their way there.
    """

    across: int
    along: int
    high: int
    wide: int
    slab: int = 4
    beside: int = 1
    stages: int = 2
    deep: int = 1

    @property
    def rows(self) -> int:
        """Rows of matrices."""
        return 16 * self.across * self.high

    @property
    def width(self) -> int:
        """Rows of the step."""
        return 8 * self.along * self.wide

    @property
    def threads(self) -> int:
        """In a block."""
        return WARP * self.across * self.along * self.deep

    @property
    def area(self) -> int:
        """Elements of a tile."""
        return self.rows * self.width


WIDE, MEDIUM, NARROW = 32, 24, 16  # rows of the step in a tile
OF_ROWS = {
    WIDE: (Tiling(2, 2, 2, 2, slab=4, beside=3), Tiling(1, 2, 2, 2, slab=4, beside=4)),
    MEDIUM: (Tiling(2, 1, 1, 3, slab=4, beside=4),),
    NARROW: (
        Tiling(1, 2, 1, 1, slab=4, beside=2, deep=4),
        Tiling(1, 2, 1, 1, slab=4, beside=4, deep=2),
    ),
}
"""Rows of the step that a block takes -> how, for matrices by rows: the first that fits is best."""

OF_TILES = {
    WIDE: (Tiling(2, 2, 2, 2, slab=4, beside=2), Tiling(1, 2, 2, 2, slab=4, beside=4)),
    MEDIUM: (Tiling(2, 1, 1, 3, slab=4, beside=3),),
    NARROW: (
        Tiling(1, 2, 1, 1, slab=4, beside=1, deep=4),
        Tiling(1, 2, 1, 1, slab=4, beside=2, deep=2),
    ),
}
"""The same for matrices in tiles, whose sums take more registers."""

DEARER = 1.15
"""Time of an element in a `MEDIUM` tile, that of one in a `WIDE` tile being 1: 12.7 us for 11.4
where there are equally many for all SMs (QKV of 512 rows, 135M, H200)."""


def tile_rows(region: Graph, tokens: int, sms: int) -> int:
    """Rows of the step in a tile of a kernel's products, for so many tokens and SMs."""
    rows = sum(n.inputs[1].shape[0] for n in region.nodes if is_fixed(n))

    def cost(width: int) -> float:
        tile = OF_ROWS[width][0]
        tiles = -(-rows // tile.rows) * -(-tokens // width)
        return -(-tiles // sms) * tile.area * (DEARER if width == MEDIUM else 1.0)

    return min((WIDE, MEDIUM), key=cost)
