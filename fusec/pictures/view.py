"""What to show of a large graph: some of its layers, or those that are alike once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, NamedTuple

from fusec.errors import FusecError
from fusec.ir.graph import LAYER, Graph, Node, Value

Layers = tuple[int, ...] | Literal["all"] | None
"""The layers to draw: these and nothing else, every one, or (None) those that are alike once."""


class Run(NamedTuple):
    """Layers `first` to `last`, each of which does the same as the earlier layer `like`."""

    first: int
    last: int
    like: int

    @property
    def name(self) -> str:
        """`layers 2 to 29`, or `layer 2`."""
        several = self.last > self.first
        return f"layers {self.first} to {self.last}" if several else f"layer {self.first}"

    @property
    def title(self) -> str:
        """The name, and which layer is drawn for them."""
        each = "each as" if self.last > self.first else "as"
        return f"{self.name}: {each} layer {self.like}"


Folded = dict[int | None, Run]
"""Layer that is not drawn, since it does the same as an earlier one -> its run of such layers."""


def read_layers(text: str | None) -> Layers:
    """`all`, `4`, `0-3` or `0,4,7-9`. Raises FusecError for anything else."""
    if text is None:
        return None
    if text == "all":
        return "all"
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise FusecError(f"--layers: expected all, 4, 0-3 or 0,4, found '{text}'")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise FusecError(f"--layers: expected the smaller number first, found '{text}'")
    return tuple(dict.fromkeys(found))


def shown(graph: Graph, layers: Layers) -> tuple[Graph, Folded]:
    """The part of a graph to draw, and its layers that are folded into one box a run.

    Raises FusecError for a layer that the graph does not have.
    """
    if layers is None:
        return graph, runs(graph)
    return (graph if layers == "all" else some_layers(graph, layers)), {}


def stands(graph: Graph, folded: Folded) -> dict[str, str]:
    """Node -> the box it is drawn in, by name: its own, or that of its run of layers."""
    return {n.name: folded[n.layer].name if n.layer in folded else n.name for n in graph.nodes}


def some_layers(graph: Graph, numbers: Collection[int]) -> Graph:
    """The nodes of these layers as a graph; inputs and outputs are what passes to and from others.

    Raises FusecError for a layer that the graph does not have.
    """
    there = {n.layer for n in graph.nodes if n.layer is not None}
    if missing := sorted(set(numbers) - there):
        known = f"it has layers 0 to {max(there)}" if there else "it has no layers"
        raise FusecError(f"{graph.name}: no layer {missing[0]}: {known}")
    nodes = [n for n in graph.nodes if n.layer in numbers]
    made = {v.name: v for n in nodes for v in n.outputs}
    read = {v.name: v for n in nodes for v in n.inputs if v.name not in made}
    inside = {n.name for n in nodes}
    leaving = [
        v
        for v in made.values()
        if not v.is_state
        and (v in graph.outputs or any(u.name not in inside for u in graph.users.get(v.name, ())))
    ]
    some = "layer" if len(numbers) == 1 else "layers"
    return replace(
        graph,
        name=f"{graph.name}, {some} {', '.join(map(str, sorted(numbers)))}",
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


def runs(graph: Graph) -> Folded:
    """The layers that do the same as an earlier one."""
    found: Folded = {}
    run: list[int] = []
    for number, like in [*sorted(alike(graph).items()), (-1, -1)]:
        if run and (like == number or like != found[run[0]].like):
            whole = Run(run[0], run[-1], found[run[0]].like)
            found |= dict.fromkeys(run, whole)
            run = []
        if like != number:
            found[number] = Run(number, number, like)
            run.append(number)
    return found


def span(nodes: Collection[Node]) -> str:
    """Layers of nodes as `0-29` or `0-3, 5`; nothing for what is outside of layers."""
    layers = sorted({n.layer for n in nodes if n.layer is not None})
    parts: list[list[int]] = []
    for layer in layers:
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


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
