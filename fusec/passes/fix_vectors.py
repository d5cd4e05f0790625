"""In steps of many rows, vectors are brought into fixed point once, not by every thread block.

%y = matvec(%n, @w)      =>      %n.fixed24 = fix(%n)
                                 %y = matvec(%n.fixed24, @w)

The layout of the matrix decides the type, because sums of rows and of tiles have different orders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op_matvec import is_fixed, is_product
from fusec.ir.ops import make
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal
from fusec.passes.split import taken


@dataclass(frozen=True)
class FixVectors:
    """The pass. In narrow steps only large matrices are concerned; on some targets none are."""

    name: str = "fix-vectors"
    equation: str = "matvec => fix -> matvec"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with a `fix` for every vector and type that products want."""
        nodes: list[Node] = []
        made = {n.name: n.outputs[0] for n in graph.nodes if n.op == "fix"}
        there = len(made)
        refused = []
        for node in graph.nodes:
            if not _is_tiled(graph, node, target):
                nodes.append(node)
                continue
            x, weight = node.inputs[:2]
            kind = target.fixed_kind(weight.layout)
            name = fixed_name(x, kind)
            unfit = why_not_fixed(weight, kind)
            if reason := unfit or (name not in made and taken(graph, "fix", name)):
                refused.append(Refusal(self.equation, (node.name,), reason))
                nodes.append(node)
                continue
            if name not in made:
                nodes.append(make("fix", (x,), name, (("kind", kind),)))
                made[name] = nodes[-1].outputs[0]
            nodes.append(replace(node, inputs=(made[name], *node.inputs[1:])))
        return graph.replace_nodes(nodes), len(made) - there, tuple(refused)


def _is_tiled(graph: Graph, node: Node, target: Target) -> bool:
    """Whether a node is a product that takes tiles of the step's rows."""
    if not is_product(node) or is_fixed(node):
        return False
    return target.fixes(graph.tokens, node.inputs[1].shape[0])


def fixed_name(x: Value, kind: str) -> str:
    """What a vector in fixed point is called."""
    return f"{x.name}.{kind}"


def why_not_fixed(weight: Value, kind: str) -> str | None:
    """The reason products with a matrix keep their vectors as they are; None if they do not.

    `kind`: see `Target.fixed_kind`.
    """
    if dtype(weight.dtype).block == 1:
        return f"{weight.name} is of plain floats, {weight.dtype}"
    if not kind:
        return f"no products of many rows with {weight.name}, which lies in {weight.layout}"
    return None
