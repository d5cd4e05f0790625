"""Every product whose columns may be dealt to thread blocks says so, and how its rows are added up.

    %a = attention(%q, $k', $v', %pos)         %a = attention(%q, $k', $v', %pos)
    %y = matvec(%a, @w)                   =>   %y = split_matvec(%a, @w) {branch=2}

A row of such a product is a sum of parts, each over the columns of `branch` lanes: those of a head,
or of what a few thread blocks make. Parts are added exactly (docs/numbers.md), so that it does not
matter who makes them, and in which order they come. That rounds otherwise than a sum in order, so
the pass runs at every level; whether parts are really made by several blocks, others decide
(`project-heads`, `project-rows`).

Only what is the same for all steps and levels counts here: who makes the vector, and the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value, attrs
from fusec.ir.op_attention import query_of_values
from fusec.ir.op_matvec import is_product
from fusec.ir.ops import op
from fusec.ir.target import TILES, ColumnSums, Target
from fusec.passes.fuse import Refusal
from fusec.passes.split_columns import (
    head_branch,
    rows_branch,
    unfit_for_heads,
    unfit_for_rows,
)


@dataclass(frozen=True)
class SplitProducts:
    """The pass. It runs behind `place-weights`, and nothing happens where no blocks make parts."""

    name: str = "split-products"
    equation: str = "matvec => split_matvec"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every such product split."""
        if target.column_sums is None:
            return graph, 0, ()
        made: dict[str, Node] = {}
        refused = []
        for node in graph.nodes:
            makers = _makers(graph, node.inputs[0]) if node.op == "matvec" else []
            if not makers:
                continue
            branch = _branch(node, makers, target, target.column_sums)
            if isinstance(branch, str):
                refused.append(Refusal(self.equation, (node.name,), branch))
            else:
                given = attrs(branch=branch)
                made[node.name] = Node("split_matvec", node.inputs, node.outputs, given)
        nodes = [made.get(node.name, node) for node in graph.nodes]
        return graph.replace_nodes(nodes), len(made), tuple(refused)


def _makers(graph: Graph, vector: Value) -> list[Node]:
    """The attention that makes a vector, or the products; none if something else does."""
    maker = graph.producers.get(vector.name)
    if maker is None:
        return []
    if op(maker.op).role == "heads" or is_product(maker):
        return [maker]
    if op(maker.op).role != "element":
        return []
    found = [made for value in maker.inputs for made in _makers(graph, value)]
    products = {node.name: node for node in found if is_product(node)}
    return list(products.values())


def _branch(node: Node, makers: list[Node], target: Target, sums: ColumnSums) -> int | str:
    """Lanes of a part of a product, or the reason why it has none."""
    weight = node.inputs[1]
    if len(node.inputs) > 2:
        return f"a factor: {node.name} is scaled by {node.inputs[2].name}"
    if is_product(makers[0]):
        first = [maker.inputs[1] for maker in makers]
        return unfit_for_rows(weight, first, target) or rows_branch(weight, sums)
    (attention,) = makers
    if (of_values := query_of_values(attention)) is not None:
        return f"a second query: {attention.name} also multiplies values, by {of_values.name}"
    if weight.layout == TILES:
        return f"in tiles of rows: {weight.name}"
    heads = int(attention["heads"])
    reason = unfit_for_heads(weight, heads, sums.cluster, sums)
    return reason or head_branch(weight, heads, sums)
