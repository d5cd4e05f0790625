"""Nodes of one op, each replaced by several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.ir.graph import Graph, Node
from fusec.passes.fuse import Refusal


def split_nodes(
    graph: Graph,
    op: str,
    equation: str,
    why_not: Callable[[Node], str | None],
    split: Callable[[Node, int], Sequence[Node]],
    size: int | None,
) -> tuple[Graph, int, tuple[Refusal, ...]]:
    """The graph with nodes of `op` split, how many were, and those that `why_not` refused.

    `size`: what the target has for `split`; where it is None, `why_not` refuses every node.
    """
    nodes: list[Node] = []
    refused = []
    hits = 0
    for node in graph.nodes:
        if node.op != op:
            nodes.append(node)
        elif reason := why_not(node):
            refused.append(Refusal(equation, (node.name,), reason))
            nodes.append(node)
        else:
            assert size is not None
            hits += 1
            nodes += split(node, size)
    return graph.replace_nodes(nodes), hits, tuple(refused)
