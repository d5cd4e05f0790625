"""A graph as graphviz DOT: one box per dispatch, one cluster per layer, edges with their types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from fusec.ir.graph import LAYER, Graph, Node, Value
from fusec.ir.ops import op
from fusec.ir.plan import Launch
from fusec.writer import Writer

COLOURS = {  # by the heaviest role inside, colour-blind safe (Okabe & Ito 2008), lightened
    "rows": "#cfe8f7",
    "heads": "#fbe3b3",
    "vector": "#d5efe3",
    "pair": "#f6d9e8",
    "store": "#f6d9e8",
    "scalar": "#ece7a8",
    "fold": "#ece7a8",
    "element": "#eeeeee",
}
EARLY = "#D55E00"
FONT = 'fontname="Helvetica"'


def to_dot(graph: Graph, launches: Iterable[Launch] = ()) -> str:
    """The DOT text.

    A box names its place in launch order, its kind, and the ops it holds with their weights. An
    input is drawn once in every layer that reads it, and a state in its layer, so that edges
    between layers are the activations that pass from one to the next. What flows between two boxes
    is one edge, with a line per value, as wide as its bytes are many; states are dashed.

    Of the plan's `launches`, a box has the grid, and one that starts while the launch in front of
    it runs (programmatic dependent launch) has an edge without an arrow.
    """
    w = Writer()
    planned = {launch.node: launch for launch in launches}
    with w.block(f"digraph {_quoted(graph.name)} {{"):
        title = _quoted(f"{graph.name}: {len(graph.nodes)} nodes")
        w.line(f"label={title}; labelloc=t; fontsize=16; {FONT};")
        w.line("rankdir=TB; ranksep=0.3; nodesep=0.3;")
        w.line(f'node [shape=box, style="rounded,filled", {FONT}, fontsize=10];')
        w.line(f'edge [{FONT}, fontsize=8, color="#555555", arrowsize=0.7];')
        for layer, lines in _by_layer(graph, planned).items():
            if layer is None:
                for line in lines:
                    w.line(line)
                continue
            with w.block(f"subgraph cluster_{layer} {{"):
                w.line(f'label="layer {layer}"; color="#999999"; fontsize=11; {FONT};')
                for line in lines:
                    w.line(line)
            w.line("}")
        for line in _edges(graph):
            w.line(line)
        for front, node in pairwise(graph.nodes):
            if node.name in planned and planned[node.name].early:
                ends = f"{_quoted(front.name)} -> {_quoted(node.name)}"
                w.line(f'{ends} [color="{EARLY}", arrowhead=none, constraint=false];')
    w.line("}")
    return w.text


def _by_layer(graph: Graph, planned: Mapping[str, Launch]) -> dict[int | None, list[str]]:
    """Layer (None outside) -> lines that declare its boxes, in launch order."""
    lines: dict[int | None, list[str]] = {}
    for value in graph.states:
        if value.name in graph.users:
            lines.setdefault(_state_layer(value), []).append(_source(value, value.name, "cylinder"))
    for value in graph.inputs:
        for layer in dict.fromkeys(n.layer for n in graph.users.get(value.name, ())):
            name = _input_name(value, layer)
            lines.setdefault(layer, []).append(_source(value, name, "ellipse"))
    for i, node in enumerate(graph.nodes, start=1):
        lines.setdefault(node.layer, []).append(_box(i, node, planned.get(node.name)))
    for value in graph.outputs:
        label = _quoted(f"{_short(value.name, None)}\n{value.type}")
        attrs = f"label={label}, shape=ellipse, style=bold"
        lines.setdefault(None, []).append(f"{_quoted(f'out {value.name}')} [{attrs}];")
    return lines


def _edges(graph: Graph) -> Iterator[str]:
    made = graph.producers
    for node in graph.nodes:
        sources: dict[str, list[Value]] = {}
        for value in dict.fromkeys(v for v in node.inputs if not v.is_weight):
            source = made[value.name].name if value.name in made else value.name
            if value in graph.inputs:
                source = _input_name(value, node.layer)
            sources.setdefault(source, []).append(value)
        for source, values in sources.items():
            yield _edge(source, node.name, values, node.layer)
    for value in graph.outputs:
        source = made[value.name].name if value.name in made else value.name
        yield _edge(source, f"out {value.name}", [value], None)


def _edge(source: str, target: str, values: list[Value], layer: int | None) -> str:
    label = _quoted("\n".join(f"  {_short(v.name, layer)} {v.type}  " for v in values))
    style = ", style=dashed" if all(v.is_state for v in values) else ""
    width = edge_width(sum(v.nbytes for v in values))
    return f"{_quoted(source)} -> {_quoted(target)} [label={label}, penwidth={width:.1f}{style}];"


def edge_width(nbytes: int) -> float:
    """Pixels of an edge: half a pixel more for each doubling of its bytes, within limits."""
    return min(5.0, max(0.8, 0.45 * math.log2(nbytes / 64 + 1)))


def _source(value: Value, name: str, shape: str) -> str:
    label = _quoted(f"{_short(value.name, _state_layer(value))}\n{value.type}")
    return f'{_quoted(name)} [label={label}, shape={shape}, style="", fontsize=9];'


def _box(place: int, node: Node, launch: Launch | None) -> str:
    roles = {op(n.op).role for n in node.ops}
    colour = next(c for role, c in COLOURS.items() if role in roles)
    lines = [f"{place}  {node.kind}"]
    if launch is not None and launch.size is not None:
        lines.append(str(launch.size))
    for plain in node.ops:
        weights = ", ".join(f"{_short(v.name, node.layer)} {v.type}" for v in plain.weights)
        if node.body:
            name = _short(plain.name, node.layer)
            lines.append(f"· {plain.op} {name}{f':  {weights}' if weights else ''}")
        elif weights:
            lines.append(weights)
    label = "".join(f"{_escaped(line)}\\l" for line in lines)
    tip = _quoted(node.name)
    return f'{tip} [label="{label}", fillcolor="{colour}", tooltip={tip}];'


def _input_name(value: Value, layer: int | None) -> str:
    return value.name if layer is None else f"{value.name} in layer {layer}"


def _state_layer(value: Value) -> int | None:
    found = LAYER.search(value.name)
    return int(found[1]) if found else None


def _short(name: str, layer: int | None) -> str:
    """The name without its kind's sign and without the layer, where that is drawn around it."""
    return name[1:].removeprefix(f"blk.{layer}.") if name[:1] in "%$@" else name


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Inside double quotes: a backslash would start one of graphviz's escapes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
