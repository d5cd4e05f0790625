"""Which kernels take several rows of a step at once, and how many.

Any kernel for one row can be launched for several, a layer of blocks for each. Where rows share
weights or keys, a thread block that takes some of them reads these once: in tiles, in fragments
(see `parts_of_rows`), or with each statement of the kernel for one row written once for each (see
`interleave`). Where clusters make partial sums a block takes all rows, up to eight, if it can: few
clusters find room beside each other.
"""

from __future__ import annotations

from fusec.codegen.cuda.attention_sizes import fits
from fusec.codegen.cuda.grouping import is_grouping
from fusec.codegen.cuda.parts_sizes import takes_rows, ways
from fusec.codegen.cuda.shape import has_heads
from fusec.codegen.cuda.tilings import MANY_TILES, SLIM, tile_rows
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph, Node
from fusec.ir.op_matvec import is_fixed
from fusec.ir.ops import op, picks_rows
from fusec.ir.plan import LaunchPlan
from fusec.ir.region import KernelShape, analyse
from fusec.ir.target import ROWS, TILES
from fusec.ir.text import parse

MANY = 9  # rows of a step from which products take them in tiles, if it has a plan of its own
TOGETHER = 8  # rows up to which a step goes through the kernels of a step of one
INTERLEAVING = "interleaved"
"""The way with each statement of the kernel for one row written for each (`interleave`)."""
INTERLEAVED = 4  # rows, at most, that a block has a text for each of: more have no registers
OWN_FIXED_TO = 32  # rows of a step up to which blocks bring vectors into fixed point themselves
OWN_ROOM = 64 << 10  # bytes of shared memory that their weights and sums may take
LARGE_ROWS_OF_SM = 16 * MANY_TILES
"""Rows of matrices for each SM from which any step of several rows takes them in tiles."""
OWN_ROWS_OF_SM = 48  # rows of matrices for each SM: for more, a vector would be made too often
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
        return tile_rows(region, tokens, sms)
    if is_grouping(region):
        return tokens
    if tokens >= MANY and len(region.nodes) == 1 and region.nodes[0].op == "attention":
        return _queries(region.nodes[0], tokens, shared, sms)
    if tokens < MANY and any(op(node.op).role == "parts" for node in region.nodes):
        rows, shape = 1 << (tokens - 1).bit_length(), analyse(region)
        fitting = (n for n in (rows, rows // 2, rows // 4) if takes_rows(shape, n, shared))
        return next(fitting, min(INTERLEAVED, rows))
    return _rows_of_floats(region, shared) if tokens >= MANY else 1


def _rows_of_floats(region: Graph, shared: int) -> int:
    """Rows of the step in a block with products of plain floats: as many as read weights once.

    Two such blocks should fit an SM.
    """
    products = [node for node in region.nodes if op(node.op).role == "rows"]
    plain = all(dtype(node.inputs[1].dtype).block == 1 for node in products)
    if not products or not plain or any(map(picks_rows, products)):
        return 1
    vectors = {n.inputs[0].name: n.inputs[0].nbytes for n in products}
    a_row = analyse(region).prologue_bytes + sum(
        -(-size // 1024) * 1024 for size in vectors.values()
    )
    return next((n for n in (INTERLEAVED, 2) if n * a_row <= shared // 2), 1)


def ways_of_rows(shape: KernelShape, rows: int, shared: int) -> tuple[str, ...]:
    """How a block may take so many rows of a step, the usual way first; none where it has one way.

    Products in tiles and attention of several rows are made in one way only.
    """
    if rows < 2 or has_heads(shape):
        return ()
    return (*ways(shape, rows, shared), INTERLEAVING)


def why_not_way(shape: KernelShape, way: str, rows: int, shared: int) -> str | None:
    """The reason a block cannot take so many rows in that way, or None if it can."""
    possible = ways_of_rows(shape, rows, shared)
    if not way or way in possible:
        return None
    return f"expected rows {' or '.join(possible) or 'one by one'}, found {rows} rows {way}"


def _queries(node: Node, tokens: int, shared: int, sms: int) -> int:
    """Rows of the step that attend in one block: fewer where blocks are fewer than SMs."""
    sizes = [n for n in QUERIES if fits(node, n, shared)]
    enough = (n for n in sizes if int(node["heads"]) * -(-tokens // n) >= sms)
    return next(enough, sizes[-1] if sizes else 1)


def for_fewer(plan: LaunchPlan, sms: int, above: int = 1) -> tuple[LaunchPlan, ...]:
    """The same plan for fewer rows, whose kernels are others: the fewest rows first, and itself.

    There are some for powers of two, each up to which kernels' blocks take the same and have the
    same shape, but none for `above` rows or less.
    """
    found = [plan]
    least = SLIM if plan.tokens >= MANY else 2
    powers = (1 << n for n in reversed(range(plan.tokens.bit_length())))
    for tokens in (t for t in powers if max(least, above + 1) <= t < plan.tokens):
        fewer = for_width(plan, tokens, sms)
        if {k.name for k in fewer.kernels} != {k.name for k in found[-1].kernels}:
            found.append(fewer)
    return tuple(reversed(found))


def for_width(plan: LaunchPlan, tokens: int, sms: int) -> LaunchPlan:
    """The plan for steps of so many rows, at most as many as it has, more than one."""
    kernels = []
    for kernel in plan.kernels:
        region = parse(kernel.region)
        if any(map(is_fixed, region.nodes)):
            rows = tile_rows(region, tokens, sms)
        else:
            rows = min(kernel.rows, tokens) if plan.tokens < MANY else kernel.rows
        kernels.append(kernel.taking(rows, tokens))
    return plan.with_kernels(kernels, tokens)
