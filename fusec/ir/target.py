"""What a pass has to know of the machine it fuses for: plain data, made by the code generator."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.gpu import Gpu
from fusec.ir.graph import Value
from fusec.ir.op_attention import head_sizes
from fusec.ir.op_fixed import OWN_RECORD
from fusec.ir.op_matvec import factor_of
from fusec.ir.ops import op
from fusec.ir.region import KernelShape, Own

TILE_ROWS = 16
ROWS, TILES = "rows", "tiles"
"""Layouts of a matrix (`Value.layout`): by rows, each lane's share side by side, or in tiles."""


@dataclass(frozen=True)
class Tiles:
    """Which matrices are multiplied a tile of rows at a time, by all warps of a block.

    They are of one of `formats`, and their rows are a multiple of `multiple` elements long. Fewer
    rows than `least` are tiles for a few thread blocks, which leave a GPU idle.
    """

    formats: frozenset[str]
    multiple: int
    least: int

    def takes(self, weight: Value, rows_beside: int = 0) -> bool:
        """Whether a matrix is one of them; `rows_beside`: of others that multiply its vector."""
        rows, columns = weight.shape
        fits = rows % TILE_ROWS == 0 and columns % self.multiple == 0
        return weight.dtype in self.formats and fits and rows + rows_beside >= self.least


def layouts_apart(shape: KernelShape) -> str | None:
    """The reason why matrices of these layouts cannot be in one kernel, or None if they can."""
    rows = [s for s in shape.segments if s.role == "rows"]
    weights = [n.inputs[1] for s in rows for n in s.nodes if op(n.op).role == "rows"]
    tiled = [weight for weight in weights if weight.layout == TILES]
    if not tiled:
        return None
    if apart := [weight for weight in weights if weight not in tiled]:
        return f"{tiled[0].name} lies in tiles of rows, {apart[0].name} by rows"
    for rope in (s.rope for s in rows):
        if rope is not None and rope["pairing"] != "adjacent":
            half, rest = divmod(int(rope["head_dim"]), 2)
            if rest or half % TILE_ROWS or rope["dims"] != rope["head_dim"]:
                return (
                    f"{tiled[0].name} lies in tiles of {TILE_ROWS} rows, {rope.name} turns "
                    f"{rope['dims']} of {rope['head_dim']} by halves"
                )
    return None


def rows_of_heads_apart(shape: KernelShape, most: int, formats: frozenset[str]) -> str | None:
    """Why a cluster does not make its head's rows of products itself, or None if it can.

    `most`: rows that one of its thread blocks can make, of matrices of one of the `formats`; 0 if
    none can.
    """
    if not shape.rows_of_heads:
        return None
    (node,), weights = shape.segments[0].nodes, [n.inputs[1] for n in shape.rows_of_heads]
    if not most or not node.matrices:
        return f"{node.op} {node.name} has no clusters of thread blocks that make a head's rows"
    if factor := next((f for n in shape.rows_of_heads if (f := factor_of(n))), None):
        return f"{factor.name} is a factor of a whole matrix"
    other = next((w for w in weights if w.dtype != weights[0].dtype), weights[0])
    blocks, each = int(node["spans"]), sum(head_sizes(node))
    reasons = {
        f"no blocks of 32: {weights[0].name} is {weights[0].dtype}": (
            weights[0].dtype not in formats
        ),
        f"two types: {weights[0].name} is {weights[0].dtype}, {other.name} is {other.dtype}": (
            other.dtype != weights[0].dtype
        ),
        f"in tiles of rows: {weights[0].name}": any(w.layout == TILES for w in weights),
        f"too many rows: {each} of a head for {blocks} thread blocks, which make {most} each": (
            each > blocks * most
        ),
        f"no equal shares: {each} rows of a head for {blocks} thread blocks": each % blocks,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(frozen=True)
class ColumnSums:
    """How a thread block may multiply the elements it made by their columns of a matrix (split-K).

    A row of a matrix of one of `formats` is summed up in blocks of `block` elements, dealt to
    `lanes`, and the lanes' sums are added as a balanced tree. `held`: how many blocks of weights
    one thread block can keep in registers until it has the elements; `cluster`: how many thread
    blocks can exchange theirs.
    """

    formats: frozenset[str]
    block: int
    lanes: int
    held: int
    cluster: int


WIDEST = 512
"""Tokens of the widest step of any target: as many rows a cache has besides a window's."""


@dataclass(frozen=True)
class Target:
    """The machine, as passes see it.

    `formats`: weight types its emitters read. `block_bytes`: memory one thread block has to itself.
    `span`: positions that one thread block attends to where attention is split over the context;
    None if it is not split. `overlaps`: a launch can start before the one in front of it has ended.
    `column_sums`: how blocks make partial sums by columns of a matrix; None if they cannot.
    `makes_heads`: elements of a head up to which blocks that attend make their own query, and what
    they append; 0 if they cannot. `makes_rows`: rows of a head's query, key and value products that
    one block of a cluster can make before it attends; 0 if none can.
    `parts`: how many blocks may search a row for its largest element; None if one is to do it.
    `tiles`: which matrices are multiplied by tiles of rows; None if none are.
    `late_norms`: a norm's division is done behind the products (see `fusec.passes.factor_norms`).
    `fixed_from`: the smallest T from which products take their vectors in fixed point, made once;
    `fixed_kinds`: of matrices of which layout, and in which type (see `fusec.passes.fix_vectors`).
    `fixed_large`: from how many rows a matrix is one of these at any T but 1.
    `own_fixed_to`: the largest T at which a thread block makes these for itself, if its eight rows
    of the step fit into `own_fixed_bytes`, for matrices of at most `own_fixed_rows` rows.
    `gpu`: the GPU that the cost model predicts for; None where nothing is predicted.
    """

    name: str
    formats: frozenset[str]
    block_bytes: int
    span: int | None = None
    column_sums: ColumnSums | None = None
    makes_heads: int = 0
    makes_rows: int = 0
    parts: int | None = None
    tiles: Tiles | None = None
    overlaps: bool = False
    late_norms: bool = False
    gpu: Gpu | None = None
    fixed_from: int | None = None
    fixed_kinds: tuple[tuple[str, str], ...] = ()
    fixed_large: int | None = None
    own_fixed_to: int = 0
    own_fixed_bytes: int = 0
    own_fixed_rows: int = 0

    def has_many(self, tokens: int) -> bool:
        """Whether a step has so many rows that products take them in tiles."""
        return self.fixed_from is not None and tokens >= self.fixed_from

    def fixes(self, tokens: int, rows: int) -> bool:
        """Whether products with a matrix of so many rows take tiles of a step of so many."""
        large = self.fixed_large is not None and tokens > 1 and rows >= self.fixed_large
        return self.has_many(tokens) or large

    def own(self, tokens: int) -> Own:
        """What blocks that take tiles of a step of so many rows bring into fixed point."""
        if tokens > self.own_fixed_to:
            return Own()
        return Own(self.own_fixed_bytes // OWN_RECORD, self.own_fixed_rows)

    def rows_of_heads_apart(self, shape: KernelShape) -> str | None:
        """See the function of that name."""
        formats = self.column_sums.formats if self.column_sums else frozenset()
        return rows_of_heads_apart(shape, self.makes_rows, formats)

    def fixed_kind(self, layout: str) -> str:
        """The type that products with matrices of that layout take vectors in; empty if none."""
        return dict(self.fixed_kinds).get(layout, "")

    def layout_of(self, weight: Value, rows_beside: int = 0) -> str:
        """How a weight lies in this target's memory: empty where that is as in the file.

        `rows_beside`: of other matrices that multiply the same vector.
        """
        if self.tiles is None or len(weight.shape) != 2:
            return ""
        return TILES if self.tiles.takes(weight, rows_beside) else ROWS
