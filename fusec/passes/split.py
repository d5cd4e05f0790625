"""What the passes share that replace each node of one op by several nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.ir.graph import Graph, Node
from fusec.ir.ops import op
from fusec.passes.fuse import Refusal


def taken(graph: Graph, op_name: str, result: str) -> str | None:
    """The reason why a new node's values cannot have their names, or None if they can."""
    names = {result + suffix for suffix in op(op_name).outputs}
    for name in sorted(names & (graph.producers.keys() | {v.name for v in graph.inputs})):
        return f"a name is taken: {name}"
    return None


def split_nodes(
    graph: Graph,
    split_op: str,
    equation: str,
    why_not: Callable[[Node], str | None],
    split: Callable[[Node, int], Sequence[Node]],
    size: int | None,
) -> tuple[Graph, int, tuple[Refusal, ...]]:
    """The graph with nodes of `split_op` split, how many were, and those that `why_not` refused.

    `size`: what the target has for `split`; where it is None, `why_not` refuses every node.
    """
    nodes: list[Node] = []
    refused = []
    hits = 0
    for node in graph.nodes:
        if node.op != split_op:
            nodes.append(node)
        elif reason := why_not(node):
            refused.append(Refusal(equation, (node.name,), reason))
            nodes.append(node)
        else:
            assert size is not None
            hits += 1
            nodes += split(node, size)
    return graph.replace_nodes(nodes), hits, tuple(refused)
