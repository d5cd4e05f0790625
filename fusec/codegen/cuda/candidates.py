"""Shapes worth trying for a kernel: a handful, all of which give the same bytes (see `shape`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.attention_sizes import fits
from fusec.codegen.cuda.defaults import SHARED, default, many_rows
from fusec.codegen.cuda.gemm import is_gemm, tilings_of, why_not_tiling
from fusec.codegen.cuda.grouping import is_grouping
from fusec.codegen.cuda.rows import INTERLEAVING, QUERIES, ways_of_rows
from fusec.codegen.cuda.shape import (
    REGISTERS,
    anchors,
    has_heads,
    is_tiled,
    matvecs,
    registers,
    why_not,
)
from fusec.codegen.cuda.tilings import tilings_to_try
from fusec.ir.choice import RELEASES, AnyChoice, Choice, Tiling
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape

HOPPER = ARCHS["sm_90a"]
FEW_ROWS = (4, 6, 8, 12, 16)
"""Warps a block where every warp makes its rows in one step."""
SEVERAL_ROWS = ((4, 2), (6, 2), (8, 2), (12, 2), (4, 3), (8, 3), (4, 4))
"""The same where it makes several at once: warps, and rows. Fewer blocks leave processors free."""
MANY_ROWS = ((4, 4), (8, 3), (8, 4), (16, 1), (16, 2))
"""Warps a block and blocks a processor where rows outnumber the warps."""
WITHOUT_ROWS = {"scalar": (8, 16, 32), "element": (1, 2, 4, 8)}
"""Warps a block of reductions, and of element-wise work."""
TAKEN = (1, 2, 4, 8)
"""Rows of the step that a block of a product takes; where blocks of a cluster share what they make,
it takes all that it can or half of them."""
CROWDED = (24, 32)
"""Warps of an SM whose registers, 80 and 64 for a lane, are all that blocks may fill."""
LANES = 512
"""Of a processor; with more of them running, each has fewer registers to hold weights."""


def candidates(kernel: Kernel, arch: Arch = HOPPER, width: int = 1) -> tuple[AnyChoice, ...]:
    """Geometries, the default first; what they release when is another question.

    `width`: rows of the step, of a kernel that takes several.
    """
    region, shape = open_region(kernel)
    usual, sms = default_of(kernel, arch), arch.sms
    if is_grouping(region):
        return (usual,)  # its grid follows from the experts
    if isinstance(usual, Tiling):
        tilings = tilings_to_try(is_own=bool(shape.prologue))
        others: Iterator[AnyChoice] = (t for t in tilings if why_not_tiling(shape, t) is None)
    else:
        one_row = (c for c in _others(shape, usual, sms) if why_not(shape, c, sms) is None)
        if not kernel.overlaps:  # pairs exchange what they made as no older GPU can
            one_row = (choice for choice in one_row if not choice.paired)
        others = one_row
        if kernel.rows:
            others = _of_rows(shape, [usual, *one_row], kernel.rows, width, arch.shared)
    alike = (replace(choice, release=usual.release) for choice in others)
    return tuple(dict.fromkeys((usual, *alike)))


def releases(kernel: Kernel, arch: Arch = HOPPER) -> tuple[str, ...]:
    """Where a kernel may let the next one begin, the default's place first."""
    usual = default_of(kernel, arch).release
    return tuple(dict.fromkeys((usual, *(RELEASES if kernel.overlaps else ()))))


def default_of(kernel: Kernel, arch: Arch = HOPPER) -> AnyChoice:
    """The choice of a kernel that nobody has measured."""
    region, shape = open_region(kernel)
    if is_gemm(region):
        return tilings_of(shape, kernel.rows, arch.sms)[0]
    return default(shape, arch.sms, kernel.overlaps, kernel.rows, kernel.leads)


def variants(kernel: Kernel, arch: Arch = HOPPER, width: int = 1) -> tuple[AnyChoice, ...]:
    """Every geometry with every release: what a search may ask for."""
    geometries = candidates(kernel, arch, width)
    return tuple(replace(g, release=r) for r in releases(kernel, arch) for g in geometries)


def _of_rows(
    shape: KernelShape, shapes: list[Choice], rows: int, width: int, shared: int
) -> Iterator[Choice]:
    """Choices of a kernel for several rows, of which a block takes `rows` by default.

    `shapes`: those for one row. Each is also tried with fewer registers, so that blocks of other
    launches find room on the same SM, but for statements of several rows, which need more.
    """
    if has_heads(shape):
        (node,) = shape.segments[0].nodes
        for taken in QUERIES if rows > 1 else ():
            if fits(node, taken, shared):
                yield replace(shapes[0], width=0 if taken == rows else taken)
        return
    if not matvecs(shape):
        yield from shapes
        return
    few = [n for n in TAKEN if n <= width] if shape.parts is None else [max(1, rows // 2)]
    for choice, taken in itertools.product(shapes, sorted({rows, *few})):
        usual, *others = ways_of_rows(shape, taken, shared) or ("",)
        for way in (usual, *others):
            crowds = CROWDED if way != INTERLEAVING else ()
            for blocks in (choice.min_blocks, *(max(1, n // choice.warps) for n in crowds)):
                yield replace(
                    choice,
                    min_blocks=blocks,
                    width=0 if taken == rows else taken,
                    way="" if way == usual else way,
                )


def _others(shape: KernelShape, usual: Choice, sms: int) -> Iterator[Choice]:
    rows = matvecs(shape)
    if has_heads(shape) or not shape.segments:
        return  # attention has a warp for each chunk; without segments there is little to spread
    if not rows:
        for warps in WITHOUT_ROWS[shape.segments[0].role]:
            yield Choice(warps)
        return
    if any(map(is_tiled, rows)):
        for alone, paired in itertools.product((False, True), repeat=2):
            yield replace(usual, alone=alone, paired=paired)
        return
    if shape.parts is not None:
        for warps, at_once in SHARED:
            yield replace(usual, warps=warps, rows_at_once=at_once)
        return
    if usual.min_blocks == 1:
        for warps in FEW_ROWS:
            yield Choice(warps)
        a_row = sum(registers(a) for s in rows for a in anchors(s))
        for warps, at_once in SEVERAL_ROWS:
            if at_once * a_row <= REGISTERS and not any(s.rope for s in rows):
                yield Choice(warps, at_once)
        return
    yield many_rows(shape, usual.warps, usual.min_blocks, REGISTERS // 2, sms)
    for warps, blocks in MANY_ROWS:
        lanes = 32 * warps * blocks
        yield many_rows(shape, warps, blocks, REGISTERS * LANES // max(lanes, LANES), sms)
