"""The division of a norm is moved behind the products that read it.

    %n = rms_norm(%x, @g)    =>    %n.factors, %n.factors.inverse = rms_factors(%x, @g)
    %y = matvec(%n, @w)            %y = matvec(%n.factors, @w, %n.factors.inverse)

`rms_factors` has two results: x * g, and the inverse RMS. A matvec takes both and scales its sums
at the end. So a kernel can multiply while the squares are still being added up. Rounding differs
from that of `rms_norm`, so the pass runs at every level of a target or at none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op_matvec import inverse_of
from fusec.ir.ops import make
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal
from fusec.passes.split import taken


@dataclass(frozen=True)
class FactorNorms:
    """The pass; a target says whether it wants it."""

    name: str = "factor-norms"
    equation: str = "rms_norm -> matvec => rms_factors -> matvec"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every norm factored that may be."""
        if not target.late_norms:
            return graph, 0, ()
        nodes: list[Node] = []
        factors: dict[str, tuple[Value, ...]] = {}
        refused = []
        for node in graph.nodes:
            inputs = node.inputs
            if inputs and inputs[0].name in factors:
                gained, inverse = factors[inputs[0].name]
                inputs = (gained, *inputs[1:], inverse)
            if node.op != "rms_norm":
                nodes.append(replace(node, inputs=inputs))
                continue
            if reason := why_not(graph, node):
                refused.append(Refusal(self.equation, (node.name,), reason))
                nodes.append(node)
                continue
            made = make("rms_factors", inputs, _name(node), node.attrs)
            factors[node.name] = made.outputs
            nodes.append(made)
        return graph.replace_nodes(nodes), len(factors), tuple(refused)


def why_not(graph: Graph, node: Node) -> str | None:
    """The reason a norm must stay as it is, or None if it may be factored."""
    if node.name in graph.needed:
        return f"{node.name} is an output of the graph"
    for user in graph.users.get(node.name, ()):
        if user.op != "matvec" or any(v.name == node.name for v in user.inputs[1:]):
            return f"{node.name} is read by {user.op} {user.name}, which takes no factors"
        if inverse_of(user) is not None:
            return f"{user.name} is scaled already"
    return taken(graph, "rms_factors", _name(node))


def _name(node: Node) -> str:
    return f"{node.name}.factors"
