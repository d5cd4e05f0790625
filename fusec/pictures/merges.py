"""What a pass made of what: the graphs before and after it, compared node by node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

from fusec.ir.graph import LAYER, Graph, Node, Value
from fusec.pictures.style import role_of
from fusec.pictures.view import span


@dataclass(frozen=True)
class Merge:
    """Nodes of the graph before a pass and those that took their place.

    What happened alike in several layers is one: `times` in `layers`, with the first one's nodes.
    """

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    times: int
    layers: str


def merges(before: Graph, after: Graph) -> list[Merge]:
    """What one pass did, in launch order. Nodes that it left as they were are not in it."""
    found: dict[str, list[tuple[list[Node], list[Node]]]] = {}
    for old, new in _changes(before, after):
        key = f"{[_alike(n) for n in old]} {[_alike(n) for n in new]}"
        found.setdefault(key, []).append((old, new))
    return [
        Merge(
            tuple(alike[0][0]),
            tuple(alike[0][1]),
            len(alike),
            span([n for _, new in alike for n in new]),
        )
        for alike in found.values()
    ]


def _changes(before: Graph, after: Graph) -> Iterator[tuple[list[Node], list[Node]]]:
    """Nodes that a pass took and those that it made, by what ties them together.

    A new node belongs to the old ones that made what is now made inside it. Where a value is made
    on one side only, its maker belongs to its readers of that side.
    """
    kept = set(before.nodes) & set(after.nodes)
    sides = [n for n in before.nodes if n not in kept], [n for n in after.nodes if n not in kept]
    makers = [{name: n.name for n in nodes for name in _made(n)} for nodes in sides]
    ties = nx.Graph()
    for side, nodes in enumerate(sides):
        mine, other = makers[side], makers[1 - side]
        for node in nodes:
            ties.add_node((side, node.name))
            for name in _made(node):
                if name in other:
                    ties.add_edge((side, node.name), (1 - side, other[name]))
            for value in node.inputs:
                if value.name in mine and value.name not in other:
                    ties.add_edge((side, node.name), (side, mine[value.name]))
    group = {vertex: i for i, tied in enumerate(nx.connected_components(ties)) for vertex in tied}
    found: dict[int, tuple[list[Node], list[Node]]] = {}
    for side, nodes in enumerate(sides):
        for node in nodes:
            found.setdefault(group[side, node.name], ([], []))[side].append(node)
    yield from found.values()


def _alike(node: Node) -> str:
    """The same for nodes that do the same in several layers."""
    return f"{node.kind} {LAYER.sub('', ' '.join(_made(node)))}"


def _made(node: Node) -> list[str]:
    return [v.name for plain in node.ops for v in plain.outputs]


def node_parts(node: Node) -> tuple[str, str, str, str, str]:
    """A node in the parts of `outputs = kind(operands)`, the plain ops inside, and its role.

    The layer's prefix is left out of names; weights are written with their types.
    """
    outputs = ", ".join(_short(v, node.layer) for v in node.outputs)
    operands = ", ".join(
        f"{_short(v, node.layer)} {v.type}" if v.is_weight else _short(v, node.layer)
        for v in node.inputs
    )
    inside = ", ".join(f"{n.op} {_short(n.outputs[0], n.layer)}" for n in node.body)
    return outputs, node.kind, operands, inside, role_of(node)


def makers(passes: Iterable[tuple[str, str, list[Merge]]], node: Node) -> list[tuple[str, str]]:
    """Id and name of the passes that took part in making a node like this one.

    `passes`: of each its id, its name and what it merged.
    """
    ops = {LAYER.sub("", name) for name in _made(node)}

    def inside(merge: Merge) -> bool:
        return any(ops >= {LAYER.sub("", name) for name in _made(n)} for n in merge.after)

    return [(key, name) for key, name, found in passes if any(map(inside, found))]


def _short(value: Value, layer: int | None) -> str:
    found = LAYER.search(value.name)
    inside = found is not None and layer is not None and int(found[1]) == layer
    return (LAYER.sub("", value.name) if inside else value.name).removesuffix(".weight")
