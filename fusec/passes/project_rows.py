"""The blocks that make a vector's elements multiply them by their columns of the matrix behind.

    %h = fused norm_swiglu(%x, ...)
    %z = fused matvec_residual(%h, @w, %r)
                    =>     %z.parts = fused norm_swiglu_parts(%x, ..., @w)
                           %z = add_parts(%z.parts, %r)

A product is linear in its vector, so blocks that have a few elements of %h make a part of it. A
cluster of them exchanges its elements and shares the rows, so that there are fewer parts. No sum
changes its order, if the target adds a row up as a tree in which each part is a branch.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value, attrs
from fusec.ir.op_parts import parts_of
from fusec.ir.ops import op
from fusec.ir.target import ColumnSums, Target
from fusec.passes.fuse import Refusal
from fusec.passes.projections import homeless, in_parts, no_sum, product_of, second_user

MAKERS = ("norm_swiglu",)
MOST_PARTS = 8  # that every block of the next launch reads


@dataclass(frozen=True)
class ProjectRows:
    """The pass. It runs in front of `parts-norm-matvec`."""

    name: str = "project-rows"
    equation: str = "norm_swiglu -> matvec_residual => norm_swiglu_parts -> add_parts"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every such product among the blocks that may make it."""
        made: dict[str, Node] = {}
        refused = []
        for maker in graph.nodes:
            if maker.kind not in MAKERS:
                continue
            if reason := why_not(graph, maker, target):
                refused.append(Refusal(self.equation, (maker.name,), reason))
                continue
            (product,) = graph.users[maker.name]
            assert target.column_sums is not None
            made[maker.name], made[product.name] = project(maker, product, target.column_sums)
        nodes = [made.get(node.name, node) for node in graph.nodes]
        return graph.replace_nodes(nodes), len(made) // 2, tuple(refused)


def why_not(graph: Graph, maker: Node, target: Target) -> str | None:
    """The reason a product must stay apart from its vector, or None if it may move."""
    if target.column_sums is None:
        return f"no clusters of blocks on {target.name}"
    if reason := second_user(graph, maker.name):
        return reason
    (product,) = graph.users.get(maker.name, (maker,))
    if product.kind != "matvec_residual" or product_of(product)[0].inputs[0] != maker.outputs[0]:
        return f"no product: expected a matvec_residual to multiply {maker.name}"
    return (
        no_sum(graph, maker, product)
        or _unfit(maker, product, target)
        or homeless(graph, product.outputs[0])
    )


def project(maker: Node, product: Node, sums: ColumnSums) -> tuple[Node, Node]:
    """The vector's blocks with the product, and the sum under the name it had."""
    matvec, residual, total = product_of(product)
    assert residual is not None
    given = attrs(block=sums.block, lanes=sums.lanes, branch=branch_of(matvec.inputs[1], sums))
    last = in_parts("matvec_parts", matvec.inputs, given, total)
    inputs = (*maker.inputs, *(v for v in matvec.inputs[1:] if v not in maker.inputs))
    kind = attrs(kind=f"{maker.kind}_parts")
    fused = Node("fused", inputs, last.outputs, kind, (*maker.body, last))
    return fused, Node("add_parts", (*last.outputs, residual), (total,))


def branch_of(weight: Value, sums: ColumnSums) -> int:
    """Lanes of a part: a power of two, and no more blocks in them than a cluster; 0 if none are."""
    rounds = -(-weight.shape[1] // (sums.block * sums.lanes))
    most = sums.cluster // rounds
    return 1 << (most.bit_length() - 1) if most else 0


def _unfit(maker: Node, product: Node, target: Target) -> str | None:
    """What is wrong with the sizes or the formats."""
    matvec, _, _ = product_of(product)
    weight, sums = matvec.inputs[1], target.column_sums
    assert sums is not None
    rows, columns = weight.shape
    first = [n.inputs[1] for n in maker.body if op(n.op).role == "rows"]
    tiles = target.tiles
    tiled = next((w for w in (weight, *first) if tiles and tiles.takes(w)), weight)
    other = next((w for w in (weight, *first) if w.dtype not in sums.formats), None)
    own = sum(sums.block * -(-w.shape[1] // (sums.block * sums.lanes)) * sums.lanes for w in first)
    branch = branch_of(weight, sums)
    reasons = {
        f"a factor of the whole matrix: {weight.name} has one": len(matvec.inputs) > 2,
        f"by tiles of rows: {tiled.name}": bool(tiles and tiles.takes(tiled)),
        f"no blocks of {sums.block}: {(other or weight).name} is {(other or weight).dtype}": (
            other is not None
        ),
        f"no whole blocks: {weight.name} has rows of {columns}": columns % sums.block,
        f"too long a row: {columns} elements for {sums.lanes} lanes and {sums.cluster} blocks of "
        f"{sums.block}": not branch,
        f"rows that are no quads: {weight.name} has {rows}": rows % 4,
        f"too many weights: {own} and {rows} blocks for a thread block, which holds "
        f"{sums.held}": own > sums.held or rows > sums.held,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        return reason
    count = parts_of(columns, sums.block, sums.lanes, branch)
    return f"too many parts: {count}, expected at most {MOST_PARTS}" if count > MOST_PARTS else None
