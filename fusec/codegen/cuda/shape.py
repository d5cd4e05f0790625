"""How a kernel is spread over the GPU: which blocks compute which segment, and with how many warps.

A warp makes rows of a matvec one by one or a few at a time; which warp makes a row, and beside
which others, never changes its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.codegen import formats
from fusec.codegen.formats import FloatFormat
from fusec.ir.graph import Node, Value
from fusec.ir.ops import op
from fusec.ir.region import KernelShape, Segment

PROCESSORS = 132  # of an H200; other sizes run the same grid in more or fewer waves
REGISTERS = 56  # that a lane may fill with weights before it uses them
WARP = 32
SPAN = 256  # positions that attention sums up together, in chunks of 16: part of the sums' order
CHUNK = 16  # positions a warp takes
CHUNKS = SPAN // CHUNK


@dataclass(frozen=True)
class Geometry:
    """`rows_at_once` and `steps`: how many rows (or row pairs) a warp makes together and in turn.

    `blocks` has the number of blocks of each segment, which follow one another in the grid.
    """

    threads: int
    min_blocks: int
    rows_at_once: int
    steps: int
    blocks: tuple[int, ...]
    grid: int

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


def chunks(weight: Value) -> int:
    """What lanes take of a row in turn: blocks of 32, or 16 bytes of plain floats."""
    columns = weight.shape[-1]
    fmt = formats.get(weight.dtype)
    return -(-columns // fmt.cuda_chunk) if isinstance(fmt, FloatFormat) else columns // 32


def chunk_registers(weight: Value) -> int:
    """Registers that hold what a lane loads of one chunk before it is used."""
    fmt = formats.get(weight.dtype)
    return 4 if isinstance(fmt, FloatFormat) else 1 + 8 * fmt.dtype.block_bytes // fmt.dtype.block


def registers(weight: Value) -> int:
    """The same of all its chunks of one row."""
    return chunk_registers(weight) * -(-chunks(weight) // WARP)


def plan(shape: KernelShape) -> Geometry:
    """Choose a geometry."""
    rows = [s for s in shape.segments if s.role == "rows"]
    threads, min_blocks, at_once, steps = _matvecs(rows) if rows else (_threads(shape), 1, 1, 1)
    if any(s.role == "heads" for s in shape.segments):
        threads = max(threads, CHUNKS * WARP)

    def blocks(segment: Segment) -> int:
        if segment.role == "heads":
            node = segment.nodes[0]
            return int(node["heads"]) * (int(node["spans"]) if node.op == "attention_spans" else 1)
        if segment.role == "scalar":
            return 1
        share = threads // WARP * at_once * steps if segment.role == "rows" else threads
        return -(-units(segment) // share)

    counts = tuple(blocks(s) for s in shape.segments)
    longest = max((v.shape[-1] for v in shape.stores), default=1)
    grid = sum(counts) or -(-longest // (4 * threads))
    return Geometry(threads, min_blocks, at_once, steps, counts, grid)


def _matvecs(segments: Sequence[Segment]) -> tuple[int, int, int, int]:
    """Threads, blocks a processor should hold, rows at once and steps for these matvecs.

    Few rows: one a warp, in as few blocks as fill the GPU once. Many: eight warps a block, two
    blocks a processor, and each warp takes several rows at once as long as registers last.
    """
    for warps in (8, 12, 16):
        if sum(-(-units(s) // warps) for s in segments) <= PROCESSORS:
            return warps * WARP, 1, 1, 1
    share = -(-sum(map(units, segments)) // (2 * 8 * PROCESSORS))
    if any(s.rope for s in segments):
        return 8 * WARP, 2, 1, share
    a_row = max(sum(registers(a.inputs[1]) for a in anchors(s)) for s in segments)
    at_most = max(1, min(6, REGISTERS // a_row))
    steps = -(-share // at_most)
    return 8 * WARP, 2, -(-share // steps), steps


def _threads(shape: KernelShape) -> int:
    """Threads of a kernel without matvecs."""
    work = [v.shape[-1] // 4 for v in shape.stores]
    work += [units(s) for s in shape.segments if s.role == "element"]
    scalars = [s.nodes[0].inputs[0].shape[-1] for s in shape.segments if s.role == "scalar"]
    wanted = max([min(128, n) for n in work] + [min(1024, n) for n in scalars], default=1)
    return max(1, -(-wanted // WARP)) * WARP
