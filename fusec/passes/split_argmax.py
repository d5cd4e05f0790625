"""Thread blocks that make a row find the best of theirs, and one small launch the best of those.

    %i = argmax(%x)          =>    %i.parts, %i.parts.places = argmax_parts(%x)
                                   %i = argmax_combine(%i.parts, %i.parts.places)

One block would take longer to read a vocabulary's logits than the blocks that make them take to
keep their best. Which block has which rows is up to the kernel's shape. So there is room for as
many parts as there can be blocks, and fewer blocks write theirs several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fusec.ir.graph import Graph, Node, attrs
from fusec.ir.ops import make, role_of
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal
from fusec.passes.split import split_nodes, taken


@dataclass(frozen=True)
class SplitArgmax:
    """The pass. It takes the number of parts from the target."""

    name: str = "split-argmax"
    equation: str = "argmax => argmax_parts -> argmax_combine"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every argmax split that may be."""
        refuse = partial(why_not, graph, target=target)
        return split_nodes(graph, "argmax", self.equation, refuse, split, target.parts)


def why_not(graph: Graph, node: Node, target: Target) -> str | None:
    """The reason an argmax must stay as it is, or None if it may be split."""
    (x,) = node.inputs
    if target.parts is None:
        return f"no parts: on {target.name} one block reads the whole row"
    maker = graph.producers.get(x.name)
    if maker is None or role_of(maker) != "rows":
        return f"no matrix: expected rows of one to make {x.name}"
    return taken(graph, "argmax_parts", _parts(node))


def split(node: Node, parts: int) -> tuple[Node, Node]:
    """An argmax as two nodes, the second under its name."""
    best = make("argmax_parts", node.inputs, _parts(node), attrs(parts=parts))
    return best, Node("argmax_combine", best.outputs, node.outputs)


def _parts(node: Node) -> str:
    return f"{node.name}.parts"
