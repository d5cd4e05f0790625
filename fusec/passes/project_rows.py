"""The thread blocks that make a vector multiply their elements by their columns of the next matrix.

    %h = fused norm_matvec_silu_mul(%x, ...)
    %z = fused matvec_add(%h, @w, %r)           (its matvec is a split_matvec)
                    =>     %z.parts = fused norm_matvec_silu_mul_parts(%x, ..., @w)
                           %z = add_parts(%z.parts, %r)     (sum_parts where nothing is added)

A product is a sum over columns, so blocks that have some elements of %h can make a partial sum of
every row (split-K). The blocks of a cluster exchange their elements and share the rows, so that
there is one partial sum a cluster, not one a block. The bytes stay, if the rows of the product are
sums of exactly these parts (`split-products`).
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value, attrs
from fusec.ir.op_matvec import branch_of
from fusec.ir.ops import kind_of, make, op, role_of
from fusec.ir.region import analyse
from fusec.ir.region_heads import NotOneKernel
from fusec.ir.target import ColumnSums, Target
from fusec.passes.fuse import Refusal
from fusec.passes.projections import (
    Product,
    homeless,
    in_order,
    parts_name,
    product_of,
    total_of,
)
from fusec.passes.split_columns import rows_branch, unfit_for_rows


@dataclass(frozen=True)
class ProjectRows:
    """The pass. It runs in front of the last `prologue`."""

    name: str = "project-rows"
    equation: str = "rows -> split_matvec (+ add) => rows & parts -> sum_parts | add_parts"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every such product among the blocks that may make it."""
        made: dict[str, tuple[Node, ...]] = {}
        refused = []
        for maker in graph.nodes:
            vector = _multiplied(graph, maker)
            if maker.name in made or vector is None:
                continue
            product = why_not(graph, maker, vector, target)
            if isinstance(product, str):
                refused.append(Refusal(self.equation, (maker.name,), product))
                continue
            assert target.column_sums is not None
            last = graph.producers[product.total.name]
            parts, *totals = project(maker, product, target.column_sums)
            made |= {maker.name: (parts,), last.name: tuple(totals)}
        nodes = [new for node in graph.nodes for new in made.get(node.name, (node,))]
        return graph.replace_nodes(nodes), len(made) // 2, tuple(refused)


def _multiplied(graph: Graph, maker: Node) -> Value | None:
    """The vector that rows make and a product in another node reads, if there is one.

    What else the node makes are vectors of its prologue, which it keeps for others.
    """
    if role_of(maker) != "rows":
        return None
    vector = maker.ops[-1].outputs[0]
    readers = (n for user in graph.users.get(vector.name, ()) for n in user.ops)
    is_read = any(op(n.op).role == "rows" and n.inputs[0] == vector for n in readers)
    return vector if is_read and vector in maker.outputs else None


def why_not(graph: Graph, maker: Node, vector: Value, target: Target) -> Product | str:
    """The reason a product must stay apart from its vector, or the one that may move."""
    if target.column_sums is None:
        return f"no clusters of thread blocks on {target.name}"
    product = product_of(graph, vector)
    if isinstance(product, str):
        return product
    return (
        _unfit(maker, product, target)
        or homeless(graph, product.total, "matvec_parts")
        or _apart(maker, product, target.column_sums)
        or product
    )


def project(maker: Node, product: Product, sums: ColumnSums) -> tuple[Node, ...]:
    """The vector's blocks with the product, and the sum under the name it had."""
    given = attrs(block=sums.block, lanes=sums.lanes, branch=branch_of(product.matvec))
    name = parts_name(product.total)
    last = make("matvec_parts", product.matvec.inputs, name, given)
    inputs = (*maker.inputs, *(v for v in product.matvec.inputs[1:] if v not in maker.inputs))
    body = (*maker.ops, last)
    outputs = (*(v for v in maker.outputs if v != product.matvec.inputs[0]), *last.outputs)
    fused = Node("fused", inputs, outputs, attrs(kind=kind_of(body)), body)
    return fused, *total_of(last.outputs[0], product)


def _apart(maker: Node, product: Product, sums: ColumnSums) -> str | None:
    """What the analysis of regions has against it."""
    try:
        analyse(project(maker, product, sums)[0].region)
    except NotOneKernel as reason:
        return f"not one kernel: {reason}"
    return None


def _unfit(maker: Node, product: Product, target: Target) -> str | None:
    """What is wrong with the sizes or the formats, or with the order of sums."""
    assert target.column_sums is not None
    first = [n for n in maker.ops if op(n.op).role == "rows"]
    reason = unfit_for_rows(product.weight, [n.inputs[1] for n in first], target)
    if reason is None and (split := next((n for n in first if branch_of(n)), None)) is not None:
        reason = f"a sum of parts itself: {split.name}"
    return reason or in_order(product, rows_branch(product.weight, target.column_sums))
