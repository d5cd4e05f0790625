"""What a pass has to know of the machine it fuses for: plain data, made by the code generator."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.gpu import Gpu
from fusec.ir.graph import Value
from fusec.ir.ops import op
from fusec.ir.region import KernelShape

TILE_ROWS = 16
ROWS, TILES = "rows", "tiles"
"""Layouts of a matrix (`Value.layout`): what a lane takes of a row side by side, or whole tiles."""


@dataclass(frozen=True)
class Tiles:
    """Which matrices are multiplied a tile of rows at a time, by all warps of a block.

    Those of some formats with rows of a multiple of `multiple` elements.
    """

    formats: frozenset[str]
    multiple: int

    def takes(self, weight: Value) -> bool:
        """Whether a matrix is one of them."""
        rows, columns = weight.shape
        fits = rows % TILE_ROWS == 0 and columns % self.multiple == 0
        return weight.dtype in self.formats and fits


def layouts_apart(shape: KernelShape) -> str | None:
    """The reason that a kernel's matrices cannot share it, or None if they can."""
    rows = [s for s in shape.segments if s.role == "rows"]
    weights = [n.inputs[1] for s in rows for n in s.nodes if op(n.op).role == "rows"]
    tiled = [weight for weight in weights if weight.layout == TILES]
    if not tiled:
        return None
    if apart := [weight for weight in weights if weight not in tiled]:
        return f"{tiled[0].name} goes by tiles of rows, {apart[0].name} by rows"
    for rope in (s.rope for s in rows):
        if rope is not None and rope["pairing"] != "adjacent":
            half, rest = divmod(int(rope["head_dim"]), 2)
            if rest or half % TILE_ROWS or rope["dims"] != rope["head_dim"]:
                return (
                    f"{tiled[0].name} goes by tiles of {TILE_ROWS} rows, {rope.name} turns "
                    f"{rope['dims']} of {rope['head_dim']} by halves"
                )
    return None


@dataclass(frozen=True)
class ColumnSums:
    """Where a thread block may multiply what it made by those columns of a matrix.

    There, a row of a matrix of one of `formats` is summed up by blocks of `block` elements, dealt
    to `lanes`, and the lanes' sums are added as a balanced tree. `held`: blocks of weights that one
    thread block keeps until it has their elements; `cluster`: thread blocks that exchange.
    """

    formats: frozenset[str]
    block: int
    lanes: int
    held: int
    cluster: int


@dataclass(frozen=True)
class Target:
    """`formats`: weight types its emitters read. `block_bytes`: memory one block has to itself.

    `span`: positions that one block attends to where attention is split over the context; None if
    it does not pay here. `overlaps`: a launch can start before the one in front of it has ended.
    `column_sums`: how blocks multiply what they made by columns of a matrix; None if they do not.
    `parts`: how many blocks can search a row for its largest element; None if one is to do it.
    `tiles`: which matrices are multiplied by tiles of rows; None if none are.
    `late_norms`: a norm's division is done behind the products (see `fusec.passes.factor_norms`).
    `most_tokens`: of a step that its kernels take; None for any number.
    `gpu`: whose constants the cost model predicts with; None where nothing is predicted.
    """

    name: str
    formats: frozenset[str]
    block_bytes: int
    span: int | None = None
    column_sums: ColumnSums | None = None
    parts: int | None = None
    tiles: Tiles | None = None
    overlaps: bool = False
    late_norms: bool = False
    gpu: Gpu | None = None
    most_tokens: int | None = None

    def layout_of(self, weight: Value) -> str:
        """How a weight lies in this target's memory: empty where that is as in the file."""
        if self.tiles is None or len(weight.shape) != 2:
            return ""
        return TILES if self.tiles.takes(weight) else ROWS
