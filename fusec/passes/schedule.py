"""The order of launches on one stream."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from fusec.ir.graph import Graph
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal


@dataclass(frozen=True)
class Schedule:
    """Topological order that follows the critical path.

    Among the nodes that are ready, the one with the longest chain of dependents goes first; ties
    keep the order of the graph. A reader of an old state version stays before its append.
    """

    name: str = "schedule"
    equation: str = ""

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The same nodes in launch order."""
        view = nx.DiGraph()
        place = {node.name: i for i, node in enumerate(graph.nodes)}
        view.add_nodes_from(place)
        for node in graph.nodes:
            for value in node.outputs:
                for user in graph.users.get(value.name, ()):
                    view.add_edge(node.name, user.name)
                if value.is_state:
                    for reader in graph.readers_before(value):
                        if reader is not node:
                            view.add_edge(reader.name, node.name)
        height: dict[str, int] = {}
        for name in reversed(list(nx.topological_sort(view))):
            height[name] = 1 + max((height[s] for s in view.successors(name)), default=0)
        order = nx.lexicographical_topological_sort(view, key=lambda n: (-height[n], place[n]))
        by_name = {node.name: node for node in graph.nodes}
        return graph.replace_nodes(by_name[name] for name in order), 0, ()


def critical_path(graph: Graph) -> int:
    """The number of launches that must follow one another whatever the streams."""
    view = graph.as_networkx()
    launches = view.subgraph(n for n, d in view.nodes.items() if d["node"] is not None)
    return nx.dag_longest_path_length(launches, default_weight=1) + 1 if launches else 0
