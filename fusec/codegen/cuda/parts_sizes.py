"""Which kernels of partial sums take several rows of a step on the tensor cores, and their panels.

See `parts_of_rows`, which emits them.
"""

from __future__ import annotations

from fusec.codegen import formats
from fusec.codegen.cuda.columns import BLOCK, Columns
from fusec.codegen.cuda.elements import element_operands
from fusec.codegen.cuda.panels import FRAGMENT, PIECE, PIECES, Panel, records_bytes
from fusec.codegen.cuda.shape import anchors
from fusec.codegen.formats import QuantFormat
from fusec.ir.graph import Node
from fusec.ir.op_fixed import GROUP
from fusec.ir.op_matvec import heads_of
from fusec.ir.ops import op
from fusec.ir.region import KernelShape

MOST_ROWS = GROUP  # of the step, in a block
WARPS = 16  # of a block, at most
PADDING = 256  # floats: see `Prologue`
OTHERS = 512  # bytes of mailboxes and factors, at most
SYSTEM = 1024  # bytes of a block's shared memory that the system takes
MADE_BY_TEAMS = frozenset(
    {"add_parts", "sum_parts", "sum_experts", "rms_factors", "rms_norm", "embed"}
)
"""Vectors that some of a block's warps can make: their functions count no threads of the block."""
TEAMS, EXCHANGED = "teams", "exchanged"
"""Ways to make the prologues of several rows, see `row_prologues`."""
EXCHANGED_FROM = 8
"""Rows from which it costs less that a cluster's blocks send each other the digits of a row each
than that every block makes those of all rows."""


def takes_rows(shape: KernelShape, rows: int, shared: int) -> bool:
    """Whether a block can take so many rows of a step, on SMs with that shared memory."""
    return bool(ways(shape, rows, shared))


def ways(shape: KernelShape, rows: int, shared: int) -> tuple[str, ...]:
    """The ways in which a block can, the one that costs less first; none where that cannot be."""
    if shape.parts is None or not 1 < rows <= MOST_ROWS or rows & (rows - 1):
        return ()
    (segment,) = shape.segments
    made = {v.name for n in shape.prologue for v in n.outputs}
    near = {v.name for n in segment.nodes for v in element_operands(n)}
    matrices = [a.inputs[1] for a in anchors(segment)] + [shape.parts.inputs[1]]
    quantised = all(isinstance(formats.get(m.dtype), QuantFormat) for m in matrices)
    plain = all(heads_of(a) == 1 for a in anchors(segment))
    if not quantised or not plain or near & made:
        return ()
    found = [TEAMS] if _by_teams(shape) else []
    if rows <= Columns.of(shape.parts, BLOCK).ranks:
        found.insert(0 if rows >= EXCHANGED_FROM else 1, EXCHANGED)
    fitting = [way for way in found if _bytes_of(shape, rows, way) <= shared - SYSTEM]
    return tuple(fitting) if fitting[:1] == found[:1] else ()


def _by_teams(shape: KernelShape) -> bool:
    """Whether some of a block's warps can make the prologue."""
    return all(n.op in MADE_BY_TEAMS or op(n.op).role == "element" for n in shape.prologue)


def alike(nodes: list[Node]) -> list[list[Node]]:
    """Products that one panel makes: of matrices of a type, times the same vector."""
    found: dict[object, list[Node]] = {}
    for node in nodes:
        x, weight = node.inputs[:2]
        found.setdefault((x.name, weight.dtype, weight.shape[1]), []).append(node)
    return list(found.values())


def panel_of(nodes: list[Node], warps: int) -> Panel:
    """A thread block's elements of the first matrices: a leaf is a block."""
    weight = nodes[0].inputs[1]
    fmt = formats.get(weight.dtype)
    assert isinstance(fmt, QuantFormat)
    return Panel(fmt, BLOCK * len(nodes), weight.shape[1] // BLOCK, 1, warps)


def panel_of_parts(node: Node, warps: int) -> Panel:
    """A thread block's share of the rows of the next matrix, by the columns of its part."""
    weight, columns = node.inputs[1], Columns.of(node, BLOCK)
    fmt = formats.get(weight.dtype)
    assert isinstance(fmt, QuantFormat)
    share = -(-weight.shape[0] // columns.ranks)
    rows = -(-share // FRAGMENT) * FRAGMENT
    return Panel(fmt, rows, columns.branch, columns.rounds, warps)


def _bytes_of(shape: KernelShape, rows: int, way: str) -> int:
    """Shared memory of a block, at most."""
    (segment,), node = shape.segments, shape.parts
    assert node is not None
    found = 0
    for warps in (WARPS // 2, WARPS):
        panels = [panel_of(nodes, warps) for nodes in alike(anchors(segment))]
        panels.append(panel_of_parts(node, warps))
        found = max(found, sum(sum(panel.sizes) for panel in panels))
    vectors = {a.inputs[0].name: a.inputs[0] for a in anchors(segment)}
    blocks = sum(v.shape[-1] // BLOCK for v in vectors.values())
    found += records_bytes(blocks + Columns.of(node, BLOCK).own) + rows * PIECES * PIECE
    made = (v for n in shape.prologue for v in n.outputs)
    of_row = sum(4 * -(-v.shape[-1] // PADDING) * PADDING for v in made)
    return (
        found + OTHERS + (of_row + blocks * PIECES * PIECE if way == EXCHANGED else rows * of_row)
    )
