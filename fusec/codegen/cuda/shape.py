"""How a kernel is spread over the GPU: which thread blocks compute which segment, with which warps.

A warp makes rows of a matvec one by one or a few at a time. Which warp makes a row, and together
with which others, never changes the row's bits. So `plan` takes any `Choice`: the default one
(`defaults`), or one that `fusec tune` measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusec.codegen import formats
from fusec.codegen.cuda.columns import Columns
from fusec.codegen.formats import FORMATS, FloatFormat, QuantFormat
from fusec.codegen.formats.tiles import SIZES
from fusec.ir.choice import Choice
from fusec.ir.graph import Node, Value
from fusec.ir.op_attention import head_sizes
from fusec.ir.op_matvec import heads_of, row_length
from fusec.ir.ops import op
from fusec.ir.region import KernelShape, Segment
from fusec.ir.target import TILE_ROWS, TILES, ColumnSums, Tiles

REGISTERS = 56  # that a lane may fill with weights before it uses them
CHOSEN_REGISTERS = 64  # the same with rows that an index names: fewer loads wait for it
WARP = 32
SPAN = 256  # positions that attention sums up together, in chunks of 16: part of the sums' order
CHUNK = 16  # positions a warp takes
CHUNKS = SPAN // CHUNK
CLUSTER = 8  # blocks: as many as every GPU with clusters has room for
MOST_MADE = 128  # elements of a head that blocks make before they attend: of 256, it took longer
MOST_ROWS_MADE = 4 * CHUNKS  # rows of products that a block makes before it attends
HELD_BLOCKS = 4  # blocks of 32 weights that a lane keeps while its block attends
TILE_WARPS = 16  # that share a tile's columns: part of the sums' order
SPLIT = 8192  # columns from which the halves of a row are summed up apart
HALF = 128 * TILE_WARPS  # columns that the warps take at once: half a row is a multiple of them
PARTS = 1024  # of a search for a row's largest element: more than there are blocks


def beside(sms: int) -> int:
    """The most blocks of a launch that others run beside, on so many multiprocessors."""
    return sms * 3 // 4


@dataclass(frozen=True)
class Geometry:
    """`rows_at_once` and `steps`: how many rows (or row pairs) a warp makes together and in turn.

    `blocks` has the number of blocks of each segment, which follow one another in the grid.
    `release`: where the next launch may begin, if the kernel overlaps. `cluster`: how many blocks
    exchange what they made. `alone`, `paired`: see `Choice`.
    """

    threads: int
    min_blocks: int
    rows_at_once: int
    steps: int
    blocks: tuple[int, ...]
    grid: int
    release: str
    cluster: int
    alone: bool
    paired: bool

    @property
    def warps(self) -> int:
        """Warps in a block."""
        return self.threads // WARP


def anchors(segment: Segment) -> list[Node]:
    """The matvecs of a segment."""
    return [n for n in segment.nodes if op(n.op).role == "rows"]


def units(segment: Segment) -> int:
    """Elements of a segment, or pairs where it rotates."""
    return segment.size // (2 if segment.rope else 1)


def parts(segment: Segment) -> int | None:
    """How many blocks may take part in its folds, if it has any."""
    return min((int(n["parts"]) for n in segment.nodes if op(n.op).role == "fold"), default=None)


def chunks(weight: Value) -> int:
    """What lanes take of a row in turn: blocks of 32, or 16 bytes of plain floats."""
    columns = weight.shape[-1]
    fmt = formats.get(weight.dtype)
    return -(-columns // fmt.cuda_chunk) if isinstance(fmt, FloatFormat) else columns // 32


def chunk_registers(weight: Value) -> int:
    """Registers that hold what a lane loads of one chunk before it is used."""
    fmt = formats.get(weight.dtype)
    return 4 if isinstance(fmt, FloatFormat) else 1 + 8 * fmt.dtype.block_bytes // fmt.dtype.block


def terms(anchor: Node) -> int:
    """Rows of the matrix whose products are added for one element, each summed up by itself."""
    return row_length(anchor) // anchor.inputs[1].shape[-1]


def row_chunks(anchor: Node) -> int:
    """Chunks of what a matvec adds up for one element."""
    return chunks(anchor.inputs[1]) * terms(anchor)


def rounds(anchor: Node) -> int:
    """How often a lane takes a chunk of a row of the matrix."""
    return -(-chunks(anchor.inputs[1]) // WARP)


def registers(anchor: Node) -> int:
    """Registers that hold a lane's chunks of one element."""
    return chunk_registers(anchor.inputs[1]) * terms(anchor) * rounds(anchor)


def column_sums() -> ColumnSums:
    """What the passes have to know to let thread blocks make partial sums of the next product."""
    quantised = frozenset(name for name, fmt in FORMATS.items() if isinstance(fmt, QuantFormat))
    return ColumnSums(quantised, 32, WARP, HELD_BLOCKS * CHUNKS * WARP, CLUSTER)


def tiles() -> Tiles:
    """What the passes have to know of the matrices that are multiplied in tiles."""
    quantised = (f for f in FORMATS.values() if isinstance(f, QuantFormat) and f.has_tiles)
    return replace(SIZES, formats=frozenset(fmt.name for fmt in quantised))


def is_tiled(segment: Segment) -> bool:
    """Whether the matvecs of a segment go by tiles."""
    return any(anchor.inputs[1].layout == TILES for anchor in anchors(segment))


def head_units(shape: KernelShape) -> int:
    """Units of a head, where a product goes by heads: a block has some of one head. Else 0."""
    for segment in matvecs(shape):
        if (heads := max(map(heads_of, anchors(segment)))) > 1:
            return units(segment) // heads
    return 0


def rows_made(shape: KernelShape) -> int:
    """Rows of products that each block of a head's cluster makes before it attends."""
    if not shape.rows_of_heads:
        return 0
    (node,) = shape.segments[0].nodes
    return sum(head_sizes(node)) // int(node["spans"])


def tile_units(segment: Segment) -> int:
    """Units of a segment whose rows are a tile (two tiles, of pairs that are not neighbours)."""
    adjacent = segment.rope is not None and segment.rope["pairing"] == "adjacent"
    return TILE_ROWS // 2 if adjacent else TILE_ROWS


def column_parts(weight: Value) -> int:
    """In how many parts a tile's columns are summed up: part of the sums' order."""
    columns = weight.shape[1]
    return 2 if columns >= SPLIT and columns % (2 * HALF) == 0 else 1


def may_pair(shape: KernelShape) -> bool:
    """Whether two blocks may share the columns: each needs half of vectors that lie in memory."""
    if len(shape.segments) != 1 or shape.prologue or shape.stores:
        return False
    (segment,) = shape.segments
    return is_tiled(segment) and all(column_parts(a.inputs[1]) == 2 for a in anchors(segment))


def plan(shape: KernelShape, choice: Choice, sms: int) -> Geometry:
    """The geometry of a choice for so many multiprocessors; `why_not` says what there is not.

    A launch of tiles gets at least one block for every SM, and an SM has room for two. So while it
    runs, one block of the next launch fits on each SM. With fewer blocks than SMs, some SMs would
    get two of the next launch's blocks, and more of them with every further launch.
    """
    threads = choice.warps * WARP

    def blocks(segment: Segment) -> int:
        if segment.role == "heads":
            node = segment.nodes[0]
            return int(node["heads"]) * int(node.get("spans", 1))
        if segment.role == "scalar":
            return 1
        if segment.role == "rows":
            each = tile_units(segment) if is_tiled(segment) else choice.warps
            return -(-units(segment) // (each * choice.rows_at_once * choice.steps))
        wanted = -(-units(segment) // threads)
        return min(wanted, parts(segment) or wanted)

    counts = tuple(blocks(s) for s in shape.segments)
    if shape.segments and is_tiled(shape.segments[-1]) and sum(counts) >= beside(sms):
        counts = (*counts[:-1], counts[-1] + max(0, sms - sum(counts)))
    longest = max((v.shape[-1] for v in shape.stores), default=1)
    if choice.paired:
        counts = (counts[0] + counts[0] % 2,)
    grid = sum(counts) or -(-longest // (4 * threads))
    if any(n.op == "fix" for n in shape.prologue) and not counts:
        grid = 1  # it has all of the row
    cluster = 2 if choice.paired else 1
    for node in projections(shape):
        cluster = int(node["spans"])
    if shape.parts is not None:
        columns = Columns.of(shape.parts, choice.warps * choice.rows_at_once)
        cluster = columns.ranks
        grid, counts = columns.parts * cluster, (columns.parts * cluster,)
    return Geometry(
        threads,
        choice.min_blocks,
        choice.rows_at_once,
        choice.steps,
        counts,
        grid,
        choice.release,
        cluster,
        choice.alone,
        choice.paired,
    )


def why_not(shape: KernelShape, choice: Choice, sms: int) -> str | None:
    """The reason a kernel of this shape cannot have that choice, or None if it can."""
    tiled = any(map(is_tiled, matvecs(shape)))
    by_pairs = not tiled and any(s.rope for s in shape.segments)
    made = rows_made(shape)
    refused = {
        f"a warp for each of {CHUNKS} chunks at once, found {choice.warps}": (
            has_heads(shape) and choice.warps < CHUNKS
        ),
        "a block to have rows of one head, in one step": (
            head_units(shape) % (choice.warps * choice.rows_at_once) > 0
            or (head_units(shape) > 0 and choice.steps > 1)
        ),
        f"warps with equal shares of {made} rows, found {choice.rows_at_once} at once": (
            made % choice.rows_at_once > 0 or made > choice.warps * choice.rows_at_once
        ),
        f"{TILE_WARPS} warps, found {choice.warps}": tiled and choice.warps != TILE_WARPS,
        f"one step over tiles of at least {SPLIT} columns, and vectors in memory, for pairs of "
        "blocks": choice.paired and (choice.steps > 1 or not may_pair(shape)),
        f"one pair of rows at once, found {choice.rows_at_once}": (
            by_pairs and choice.rows_at_once > 1
        ),
        f"at most a row at once for each lane, found {choice.rows_at_once}": (
            choice.rows_at_once > WARP
        ),
        f"one step, with its weights in registers, and at most {CLUSTER} blocks a cluster": (
            shape.parts is not None and not may_share(shape, choice)
        ),
    }
    for expected, is_wrong in refused.items():
        if is_wrong:
            return f"expected {expected}"
    for segment, blocks in zip(shape.segments, plan(shape, choice, sms).blocks, strict=True):
        if (most := parts(segment)) and blocks > most:
            return f"expected a part for each block, found {most} parts and {blocks} blocks"
    return None


def may_share(shape: KernelShape, choice: Choice) -> bool:
    """Whether the blocks of a cluster can share what they make, all weights being there before."""
    (segment,), node = shape.segments, shape.parts
    assert node is not None
    held = sum(registers(a) for a in anchors(segment)) * choice.rows_at_once
    long = any(row_chunks(a) > WARP for a in anchors(segment))
    clusters = Columns.of(node, choice.warps * choice.rows_at_once).ranks <= CLUSTER
    return choice.steps == 1 and held <= REGISTERS and not long and clusters


def matvecs(shape: KernelShape) -> list[Segment]:
    """The segments that go by rows of matrices."""
    return [s for s in shape.segments if s.role == "rows"]


def projections(shape: KernelShape) -> list[Node]:
    """Attention whose blocks multiply by a matrix as well: those of a head are a cluster."""
    return [s.nodes[0] for s in shape.segments if s.role == "heads" and s.nodes[0].matrices]


def has_heads(shape: KernelShape) -> bool:
    """Whether there is attention in the kernel."""
    return any(s.role == "heads" for s in shape.segments)
