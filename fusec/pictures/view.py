"""What to show of a large graph: one layer of it, and which layers are alike."""

from __future__ import annotations

from dataclasses import replace

from fusec.errors import FusecError
from fusec.ir.graph import LAYER, Graph, Node, Value


def one_layer(graph: Graph, number: int) -> Graph:
    """The nodes of a layer as a graph; inputs and outputs are what passes to and from others.

    Raises FusecError for a layer that the graph does not have.
    """
    nodes = [n for n in graph.nodes if n.layer == number]
    if not nodes:
        last = max((n.layer for n in graph.nodes if n.layer is not None), default=None)
        there = "it has no layers" if last is None else f"it has layers 0 to {last}"
        raise FusecError(f"{graph.name}: no layer {number}: {there}")
    made = {v.name: v for n in nodes for v in n.outputs}
    read = {v.name: v for n in nodes for v in n.inputs if v.name not in made}
    leaving = [
        v
        for v in made.values()
        if not v.is_state
        and (v in graph.outputs or any(u.layer != number for u in graph.users.get(v.name, ())))
    ]
    return replace(
        graph,
        name=f"{graph.name}, layer {number}",
        inputs=tuple(v for v in read.values() if v.name[0] == "%"),
        states=tuple(v for v in read.values() if v.is_state),
        nodes=tuple(nodes),
        outputs=tuple(leaving),
    )


def alike(graph: Graph) -> dict[int, int]:
    """Layer -> the first layer that does the same with weights of the same types."""
    layers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.layer is not None:
            layers.setdefault(node.layer, []).append(node)
    first: dict[str, int] = {}
    return {number: first.setdefault(_shape(nodes), number) for number, nodes in layers.items()}


def runs(graph: Graph) -> dict[int, tuple[int, int, int]]:
    """Layer like an earlier one -> first and last of its run of such, and the earlier one."""
    found: dict[int, tuple[int, int, int]] = {}
    run: list[int] = []
    for number, like in [*sorted(alike(graph).items()), (-1, -1)]:
        if run and (like == number or like != found[run[0]][2]):
            found |= dict.fromkeys(run, (run[0], run[-1], found[run[0]][2]))
            run = []
        if like != number:
            found[number] = number, number, like
            run.append(number)
    return found


def _shape(nodes: list[Node]) -> str:
    """Equal for layers that differ in the names of their values alone."""
    made = {v.name for n in nodes for v in n.outputs}

    def value(v: Value) -> str:
        inside = v.name in made or v.name[0] in "@$"
        return f"{LAYER.sub('', v.name) if inside else ''}:{v.type}"

    return "\n".join(
        f"{n.op}{n.attrs}{[value(v) for v in (*n.inputs, *n.outputs)]}{[b.op for b in n.body]}"
        for n in nodes
    )
