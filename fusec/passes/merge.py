"""Several nodes become one: the fused node, and the graph around it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from fusec.ir.graph import Graph, Node, Value, outside

Group = tuple[tuple[Node, ...], str]
"""Nodes in graph order, and the kind of node that they become."""


def fuse(graph: Graph, match: tuple[Node, ...], kind: str) -> Node:
    """The fused node: bodies concatenated, inputs and outputs as seen from outside."""
    body = tuple(plain for node in match for plain in node.ops)
    names = {n.name for n in match}
    inputs, outputs = outside(body, {v.name for n in match for v in _visible(graph, n, names)})
    return Node("fused", inputs, outputs, (("kind", kind),), body)


def merge(graph: Graph, groups: Sequence[Group]) -> tuple[Graph, int]:
    """The graph with every group merged, each as early as what it reads allows; how many were.

    Groups share no node, and each alone is free of cycles. Where some would wait for each other,
    later ones are left out: the next sweep sees why.
    """
    while (made := _ordered(graph, groups)) is None:
        groups = groups[:-1]
    return graph.replace_nodes(made), len(groups)


def _ordered(graph: Graph, groups: Sequence[Group]) -> list[Node] | None:
    """All nodes in topological order, ties by place in the old graph; None: a cycle."""
    fused = {match[0].name: fuse(graph, match, kind) for match, kind in groups}
    leader = {n.name: match[0].name for match, _ in groups for n in match}
    nodes = {
        leader.get(n.name, n.name): fused.get(leader.get(n.name, n.name), n) for n in graph.nodes
    }
    place = {name: graph.place[name] for name in nodes}
    waits: dict[str, set[str]] = {name: set() for name in nodes}
    for node in graph.nodes:
        own = leader.get(node.name, node.name)
        for value in node.inputs:
            maker = graph.producers.get(value.name)
            if maker is not None:
                waits[own].add(leader.get(maker.name, maker.name))
        for value in node.outputs:
            if value.is_state:  # who reads an older version comes before the append
                for reader in graph.readers_before(value):
                    waits[own].add(leader.get(reader.name, reader.name))
        waits[own].discard(own)
    users: dict[str, list[str]] = {}
    for name, needed in waits.items():
        for other in needed:
            users.setdefault(other, []).append(name)
    ready = [(place[name], name) for name, needed in waits.items() if not needed]
    heapq.heapify(ready)
    order = []
    while ready:
        _, name = heapq.heappop(ready)
        order.append(nodes[name])
        for user in users.get(name, ()):
            waits[user].discard(name)
            if not waits[user]:
                heapq.heappush(ready, (place[user], user))
    return order if len(order) == len(nodes) else None


def _visible(graph: Graph, node: Node, names: set[str]) -> list[Value]:
    """Outputs of `node` that are not only read by `names`. One that nobody reads stays visible."""

    def hidden(value: Value) -> bool:
        users = graph.users.get(value.name, ())
        return (
            value.name not in graph.needed and bool(users) and all(u.name in names for u in users)
        )

    return [v for v in node.outputs if not hidden(v)]
