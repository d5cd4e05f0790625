"""Which kernels take several rows of a step at once, and how many.

Any kernel for one row can be launched for several, a layer of blocks for each. Where rows share
weights or keys, a thread block that takes some of them reads these once.
"""

from __future__ import annotations

from dataclasses import replace

from fusec.codegen.cuda.attention_rows import fits
from fusec.ir.graph import Graph
from fusec.ir.op_matvec import is_fixed
from fusec.ir.plan import LaunchPlan
from fusec.ir.target import ROWS, TILES
from fusec.ir.text import parse

MANY = 9  # rows of a step from which products take them in tiles
WIDE, NARROW = 32, 16  # rows of the step in a tile
FEW = 64
"""Rows up to which narrow tiles are quicker: there are more of them, and warps share their columns.
A step of 64 takes 1.2 ms with narrow and 1.5 with wide ones, of 128 1.9 and 1.6 (135M, H200)."""
QUERIES = (16, 8)  # rows of the step that attend in one block, if they fit
FIXED = {ROWS: "fixed24", TILES: "fixed23"}
"""Layout of a matrix -> the type of vectors that it is multiplied with in tiles."""


def rows_of_block(region: Graph, tokens: int, shared: int) -> int:
    """How many rows of a step of so many a block of a kernel takes; 0 where there is one.

    `shared`: bytes of shared memory of an SM.
    """
    if tokens == 1:
        return 0
    if any(is_fixed(node) for node in region.nodes):
        return WIDE if tokens > FEW else NARROW
    if tokens >= MANY and len(region.nodes) == 1 and region.nodes[0].op == "attention":
        return next((n for n in QUERIES if fits(region.nodes[0], n, shared)), 1)
    return 1


def narrowed(plan: LaunchPlan) -> LaunchPlan | None:
    """The same plan for steps of at most `FEW` rows; None if it is that already."""
    names = {}
    kernels = list(plan.kernels)
    for i, kernel in enumerate(plan.kernels):
        if kernel.rows == WIDE:
            name = f"{kernel.name.removesuffix(f'_{WIDE}')}_{NARROW}"
            region = replace(parse(kernel.region), name=name)
            names[kernel.name] = name
            kernels[i] = replace(kernel, name=name, region=str(region), rows=NARROW)
    if not names:
        return None
    launches = [
        replace(launch, kernel=names[launch.kernel], size=None)
        if launch.kernel in names
        else launch
        for launch in plan.launches
    ]
    return replace(plan, tokens=FEW, kernels=tuple(kernels), launches=tuple(launches))
