"""In steps of many rows, those that chose the same expert are multiplied with its matrices at once.

%y = expert_matvec(%n, @w, %ids)      =>      %ids.order, %ids.order.starts = group(%ids)
                                              %n.fixed24 = fix(%n)
                                              %y = grouped_matvec(%n.fixed24, @w, %ids.order, ...)

The products of a sum over experts are made apart, and added up behind that:

%y = expert_matvec_sum(%h, @w, %ids)  =>      %y.parts = grouped_matvec(%h.fixed24, @w, ...)
                                              %y = sum_experts(%y.parts)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fusec.ir.graph import Graph, Node, Value, attrs
from fusec.ir.op_experts import adds_experts
from fusec.ir.ops import make, picks_rows
from fusec.ir.target import Target
from fusec.passes.fix_vectors import fixed_name, why_not_fixed
from fusec.passes.fuse import Refusal
from fusec.passes.split import taken


@dataclass(frozen=True)
class GroupExperts:
    """The pass. Nothing happens in steps of few rows, where most experts have one row at most."""

    name: str = "group-experts"
    equation: str = "expert_matvec => group & fix -> grouped_matvec"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every product of chosen experts grouped."""
        if not target.has_many(graph.tokens):
            return graph, 0, ()
        change = _Change(graph, target)
        refused = []
        for node in filter(picks_rows, graph.nodes):
            if reason := change.why_not(node):
                refused.append(Refusal(self.equation, (node.name,), reason))
            else:
                change.group(node)
        return graph.replace_nodes(change.nodes()), len(change.products), tuple(refused)


@dataclass
class _Change:
    """What is made of a graph. `behind`: a value, or nothing for inputs -> what is made of it."""

    graph: Graph
    target: Target
    products: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    behind: dict[str, list[Node]] = field(default_factory=dict)

    def why_not(self, node: Node) -> str | None:
        """The reason a product goes row by row, or None if its rows are to be grouped."""
        x, weight, ids = node.inputs
        kind = self.target.fixed_kind(weight.layout)
        parts = f"{node.name}.parts"
        return (
            why_not_fixed(weight, kind)
            or taken(self.graph, "group", _order(ids))
            or taken(self.graph, "fix", fixed_name(x, kind))
            or (taken(self.graph, node.op, parts) if adds_experts(node) else None)
        )

    def group(self, node: Node) -> None:
        """Put a product's other form in its place, and what that reads behind who makes it."""
        x, weight, ids = node.inputs
        rows = int(node["rows"])
        made = make("group", (ids,), _order(ids), attrs(experts=weight.shape[0] // rows))
        order, starts = self._made_of(ids, made).outputs
        kind = self.target.fixed_kind(weight.layout)
        fixed = self._made_of(x, make("fix", (x,), fixed_name(x, kind), attrs(kind=kind))).outputs[
            0
        ]
        inputs, given = (fixed, weight, order, starts), attrs(rows=rows)
        if not adds_experts(node):
            self.products[node.name] = (make("grouped_matvec", inputs, node.name, given),)
            return
        product = make("grouped_matvec", inputs, f"{node.name}.parts", given)
        count = product.outputs[0].shape[-1] // node.outputs[0].shape[-1]
        total = Node("sum_experts", product.outputs, node.outputs, attrs(parts=count))
        self.products[node.name] = (product, total)

    def _made_of(self, value: Value, node: Node) -> Node:
        """The node, or the one like it that another product has asked for."""
        made = self.behind.setdefault(value.name, [])
        same = next((other for other in made if other.name == node.name), None)
        if same is None:
            made.append(node)
        return same or node

    def nodes(self) -> Iterator[Node]:
        """All nodes of the graph."""
        for value in self.graph.inputs:
            yield from self.behind.get(value.name, ())
        for node in self.graph.nodes:
            yield from self.products.get(node.name, (node,))
            for value in node.outputs:
                yield from self.behind.get(value.name, ())


def _order(ids: Value) -> str:
    return f"{ids.name}.order"
