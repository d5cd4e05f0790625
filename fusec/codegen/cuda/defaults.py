"""The shape of a kernel that nobody has measured."""

from __future__ import annotations

import itertools

from fusec.codegen.cuda.shape import (
    CHOSEN_REGISTERS,
    CHUNKS,
    REGISTERS,
    TILE_WARPS,
    WARP,
    anchors,
    beside,
    column_parts,
    has_heads,
    head_units,
    is_tiled,
    matvecs,
    may_pair,
    may_share,
    registers,
    row_chunks,
    rows_made,
    tile_units,
    units,
)
from fusec.ir.choice import Choice
from fusec.ir.op_matvec import row_length
from fusec.ir.ops import op, picks_rows
from fusec.ir.region import KernelShape, Segment

SMALL = 15_888  # weights a multiprocessor reads and multiplies before the next launch begins
SHARED = ((8, 4), (16, 2))  # warps, and rows of each, where a cluster shares what its blocks make
HEAD_WARPS = range(1, 17)  # of a block with rows of one head
MOST_TILES = 16  # whose sums a block keeps at once


def default(
    shape: KernelShape,
    sms: int,
    overlaps: bool = False,
    together: int = 0,
    leads: bool = False,
) -> Choice:
    """The choice for a GPU of so many multiprocessors that nobody has measured.

    `together`: rows of the step that a block takes at once, if there are several. Of two, many
    warps leave the launches around it more room (`docs/performance-log.md`). `leads`: see `Kernel`;
    what makes its head's rows has much to load, so it begins at once, and fills multiprocessors,
    so it lets the next launch begin behind its wait.

    Few rows: one a warp, in as few blocks as fill the GPU once; or, where launches overlap, what
    `beside_others` says. Many: eight warps a block, two blocks a processor, and each warp takes
    several rows at once as long as registers last.
    """
    rows = matvecs(shape)
    if any(map(is_tiled, rows)):
        return tiles_shared(shape, rows, sms, overlaps)
    if of_head := head_units(shape):
        warps = max(n for n in HEAD_WARPS if of_head % n == 0)
        return Choice(warps, release="load" if overlaps else "wait")
    if shape.parts is not None:
        shared = reversed(SHARED) if together == 2 else SHARED
        release = ("begin" if leads else "read") if overlaps else "wait"
        choices = [Choice(*sizes, release=release) for sizes in shared]
        return next((c for c in choices if may_share(shape, c)), choices[-1])
    if overlaps and (choice := beside_others(shape, sms)):
        return choice
    if not rows:
        early = overlaps and has_heads(shape) and not shape.rows_of_heads
        release = "load" if early else "wait"
        at_once = 1 << (-(-max(1, rows_made(shape)) // CHUNKS) - 1).bit_length()
        warps = max(_warps(shape), CHUNKS if has_heads(shape) else 1)
        return Choice(warps, at_once, release=release)
    return _in_one_wave(shape, rows, sms)


def _in_one_wave(shape: KernelShape, rows: list[Segment], sms: int) -> Choice:
    """The choice for rows whose launch is alone on the GPU."""
    least = CHUNKS if has_heads(shape) else 1
    for warps in (8, 12, 16):
        if sum(-(-units(s) // warps) for s in rows) <= sms:
            return Choice(max(warps, least))
    picks = any(picks_rows(n) for s in rows for n in s.nodes)
    return many_rows(shape, max(8, least), 2, CHOSEN_REGISTERS if picks else REGISTERS, sms)


def tiles_shared(shape: KernelShape, rows: list[Segment], sms: int, overlaps: bool) -> Choice:
    """One wave of blocks, one on each processor, with room for one of the launch behind.

    A launch that begins while another one ends would put two blocks on each SM that is free first.
    So two blocks of one launch must not fit an SM, but one block each of two neighbouring launches
    must. Kernels with a norm take turns with kernels without, so only those without are made
    `alone`. These also work in pairs where they may, and come behind attention, which leaves SMs
    free for two blocks.
    """
    counts = [-(-units(s) // tile_units(s)) for s in rows]
    share = next(n for n in itertools.count(1) if sum(-(-c // n) for c in counts) <= sms)
    held = max(_sums_held(s) for s in rows)
    steps = -(-share * held // MOST_TILES)
    release = "begin" if overlaps else "wait"
    return Choice(
        TILE_WARPS,
        -(-share // steps),
        steps,
        2,
        release,
        alone=not any(op(n.op).trees for n in shape.prologue),
        paired=overlaps and steps == 1 and may_pair(shape),
    )


def _sums_held(segment: Segment) -> int:
    """Tiles whose sums a block keeps for a tile of units, those of each part of the columns."""
    rows = anchors(segment)
    return sum(column_parts(a.inputs[1]) for a in rows) * (2 if segment.rope else 1)


def beside_others(shape: KernelShape, sms: int) -> Choice | None:
    """The choice for small matrices in launches that overlap; None if there is none.

    The next launch loads its weights while this one runs, if its blocks find room. Where two blocks
    have to share an SM, or one has to wait for a free one, all others wait for it. So a launch
    leaves a quarter of the SMs alone, and lets the next one begin as soon as its own weights are
    there. Long rows are made two at a time, in half as many blocks, because activations are then
    read once for both. A kernel that rotates makes two rows a warp anyway, so its blocks are small.
    If it also adds partial sums up, it lets the next launch begin at once: that is attention, which
    has much to load.
    """
    rows = matvecs(shape)
    weights = sum(a.outputs[0].shape[-1] * row_length(a) for s in rows for a in anchors(s))
    if has_heads(shape) or weights > SMALL * sms:
        return None
    a_row = max((sum(registers(a) for a in anchors(s)) for s in rows), default=0)
    is_long = any(row_chunks(a) > WARP for s in rows for a in anchors(s))
    rope = any(s.rope for s in rows)
    sizes = ((8, 1), (8, 2), (8, 3), (12, 1), (16, 1))
    for warps, at_once in ((6, 1), *sizes) if rope else sizes:
        blocks = sum(-(-units(s) // (warps * at_once)) for s in rows)
        fits = at_once * a_row <= REGISTERS and not (rope and at_once > 1)
        if rows and fits and blocks <= beside(sms) and (at_once > 1 or rope or not is_long):
            in_parts = rope and any(op(n.op).adds_parts for n in shape.prologue)
            return Choice(warps, at_once, release="begin" if in_parts else "load")
    return None


def many_rows(shape: KernelShape, warps: int, min_blocks: int, held: int, sms: int) -> Choice:
    """One wave of blocks, `min_blocks` a processor, whose warps share the rows evenly.

    A warp makes as many at once as `held` registers have room for, at most six.
    """
    rows = matvecs(shape)
    share = -(-sum(map(units, rows)) // (min_blocks * warps * sms))
    if any(s.rope for s in rows):
        return Choice(warps, 1, share, min_blocks)
    a_row = max(sum(registers(a) for a in anchors(s)) for s in rows)
    steps = -(-share // max(1, min(6, held // a_row)))
    return Choice(warps, -(-share // steps), steps, min_blocks)


def _warps(shape: KernelShape) -> int:
    """Warps of a kernel without matvecs."""
    work = [v.shape[-1] // 4 for v in shape.stores]
    work += [units(s) for s in shape.segments if s.role == "element"]
    scalars = [s.nodes[0] for s in shape.segments if s.role == "scalar"]
    work = [min(128, n) for n in work]
    for node in scalars:  # of parts with their places, a thread takes four at once
        if len(node.outputs) > 1:  # one warp chooses among experts
            continue
        share = 4 if len(node.inputs) > 1 else 1
        work.append(min(1024, -(-node.inputs[0].shape[-1] // share)))
    wanted = max(work, default=1)
    return max(1, -(-wanted // WARP))
