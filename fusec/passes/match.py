"""Finding a small pattern graph in a large graph, in time linear in the large one's size.

networkx's own matcher visits all vertices at every step. A pattern is connected, so here each
further part is looked for only among the neighbours of those already found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx

from fusec.ir.graph import Graph
from fusec.ir.ops import role_of


def occurrences(view: nx.DiGraph, pattern: nx.DiGraph) -> Iterator[dict[str, str]]:
    """Part -> vertex, for every way to place a connected pattern's parts on different vertices.

    Every edge of the pattern is an edge of the view (a monomorphism), and each vertex `fits`.
    """
    order = connected_order(pattern)
    yield from _extend(view, pattern, order, {})


class Views:
    """The view of the graph that was looked at last.

    A rule's last sweep and the next one's first see the same graph, and building a view takes
    longer than matching on it.
    """

    def __init__(self) -> None:
        self._last: tuple[Graph | None, nx.DiGraph] = (None, nx.DiGraph())

    def of(self, graph: Graph) -> nx.DiGraph:
        """`view_of`, to read."""
        last = self._last
        if last[0] is not graph:
            last = self._last = (graph, view_of(graph))
        return last[1]


def view_of(graph: Graph) -> nx.DiGraph:
    """`Graph.as_networkx` with `names` for every vertex: all that a pattern may call it."""
    view = graph.as_networkx()
    for _, data in view.nodes.items():
        node = data["node"]
        names = {data["op"]} if node is None else {node.kind, role_of(node), "node"}
        data["names"] = frozenset(names)
    return view


def fits(vertex: dict[str, Any], part: dict[str, Any]) -> bool:
    """Whether a vertex of `view_of` can be a part of a pattern."""
    if vertex["node"] is None and part["merged"]:
        return False
    return not part["ops"] or not part["ops"].isdisjoint(vertex["names"])


def connected_order(pattern: nx.DiGraph) -> list[str]:
    """The parts, each but the first a neighbour of an earlier one; a merged one comes first.

    Parts that are not connected with it are left out.
    """
    first = next(part for part, data in pattern.nodes.items() if data["merged"])
    return [first, *(v for _, v in nx.bfs_edges(pattern.to_undirected(as_view=True), first))]


def _extend(
    view: nx.DiGraph, pattern: nx.DiGraph, order: list[str], placed: dict[str, str]
) -> Iterator[dict[str, str]]:
    if len(placed) == len(order):
        yield dict(placed)
        return
    part = order[len(placed)]
    for vertex in _candidates(view, pattern, part, placed):
        if vertex in placed.values() or not fits(view.nodes[vertex], pattern.nodes[part]):
            continue
        placed[part] = vertex
        if all(
            view.has_edge(placed[source], placed[target])
            for source, target in pattern.edges
            if part in (source, target) and source in placed and target in placed
        ):
            yield from _extend(view, pattern, order, placed)
        del placed[part]


def _candidates(
    view: nx.DiGraph, pattern: nx.DiGraph, part: str, placed: dict[str, str]
) -> list[str]:
    """The neighbours of a part that is placed already, or every vertex for the first."""
    for other, vertex in placed.items():
        if pattern.has_edge(other, part):
            return list(view.successors(vertex))
        if pattern.has_edge(part, other):
            return list(view.predecessors(vertex))
    return list(view.nodes)
