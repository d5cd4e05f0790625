"""Which kernels take several rows of a step at once, and how many.

Any kernel for one row can be launched for several, a layer of blocks for each. Where rows share
weights or keys, a thread block that takes some of them reads these once: in tiles, or with each
statement of the kernel for one row written once for each (see `interleave`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fusec.codegen.cuda.attention_rows import fits
from fusec.codegen.cuda.tilings import MEDIUM, NARROW, WIDE, tile_rows
from fusec.ir.graph import Graph
from fusec.ir.op_matvec import is_fixed
from fusec.ir.ops import op
from fusec.ir.plan import LaunchPlan
from fusec.ir.target import ROWS, TILES
from fusec.ir.text import parse

MANY = 9  # rows of a step from which products take them in tiles
FEW = 64
"""Rows up to which narrow tiles are quicker: there are more of them, and warps share their columns.
A step of 64 takes 1.2 ms with narrow and 1.5 with wide ones, of 128 1.9 and 1.6 (135M, H200)."""
TOGETHER = 4
"""Rows up to which a step goes through the kernels of a step of one, and blocks whose cluster makes
partial sums take them all: of five, tiles take no longer. Other kernels have a layer of blocks for
each row. Clusters find no room beside each other, and more rows than four no registers."""
QUERIES = (16, 8)  # rows of the step that attend in one block, if they fit
FIXED = {ROWS: "fixed24", TILES: "fixed23"}
"""Layout of a matrix -> the type of vectors that it is multiplied with in tiles."""


def rows_of_block(region: Graph, tokens: int, shared: int, sms: int) -> int:
    """How many rows of a step of so many a block of a kernel takes; 0 where there is one.

    `shared`: bytes of shared memory of an SM, of which there are `sms`.
    """
    if tokens == 1:
        return 0
    if any(is_fixed(node) for node in region.nodes):
        return tile_rows(region, tokens, sms) if tokens > FEW else NARROW
    if tokens >= MANY and len(region.nodes) == 1 and region.nodes[0].op == "attention":
        return next((n for n in QUERIES if fits(region.nodes[0], n, shared)), 1)
    if tokens < MANY and any(op(node.op).role == "parts" for node in region.nodes):
        return min(TOGETHER, 1 << (tokens - 1).bit_length())
    return 1


def for_fewer(plan: LaunchPlan) -> LaunchPlan | None:
    """The same plan for fewer rows, of which blocks take fewer; None if all take as few already."""
    if plan.tokens >= MANY:
        return _with_rows(plan, FEW, {WIDE: NARROW, MEDIUM: NARROW})
    return _with_rows(plan, 2, {TOGETHER: 2})


def _with_rows(plan: LaunchPlan, tokens: int, rows: Mapping[int, int]) -> LaunchPlan | None:
    """The plan for so many tokens, with other `rows` of its kernels; None if none has others."""
    names = {}
    kernels = list(plan.kernels)
    for i, kernel in enumerate(plan.kernels):
        if kernel.rows in rows:
            new = rows[kernel.rows]
            name = f"{kernel.name.removesuffix(f'_{kernel.rows}')}_{new}"
            region = replace(parse(kernel.region), name=name)
            names[kernel.name] = name
            kernels[i] = replace(kernel, name=name, region=str(region), rows=new)
    if not names:
        return None
    launches = [
        replace(launch, kernel=names[launch.kernel], size=None)
        if launch.kernel in names
        else launch
        for launch in plan.launches
    ]
    return replace(plan, tokens=tokens, kernels=tuple(kernels), launches=tuple(launches))
