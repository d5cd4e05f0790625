"""The choice of a row's largest element by all blocks that make some, then by one.

    %i = argmax(%x)                =>     %i.parts = argmax_parts(%x)
                                          %i = argmax_combine(%i.parts)

One block takes longer to read a vocabulary's logits than the blocks that make them take to keep the
best as they go. Which of them has which rows is up to a kernel's shape, so there are as many parts
as there may ever be blocks, and all are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fusec.ir.graph import Graph, Node, Value, attrs
from fusec.ir.op_argmax import MOST
from fusec.ir.ops import infer, op
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal
from fusec.passes.split import split_nodes


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
    if maker is None or not any(op(n.op).role == "rows" for n in maker.ops):
        return f"no matrix: {x.name} does not come from blocks that make its rows"
    if x.shape[-1] > MOST:
        return f"too many elements: {x.name} has {x.shape[-1]:,}, an index in f32 reaches {MOST:,}"
    if _parts(node) in graph.producers or _parts(node) in {v.name for v in graph.inputs}:
        return f"a name is taken: {_parts(node)}"
    return None


def split(node: Node, parts: int) -> tuple[Node, Node]:
    """An argmax as two nodes, the second under its name."""
    draft = Node("argmax_parts", node.inputs, (Value(_parts(node), "f32", ()),), attrs(parts=parts))
    ((dtype, shape),) = infer(draft)
    pairs = Value(draft.name, dtype, shape)
    return (
        Node(draft.op, node.inputs, (pairs,), draft.attrs),
        Node("argmax_combine", (pairs,), node.outputs),
    )


def _parts(node: Node) -> str:
    return f"{node.name}.parts"
