"""A graph as graphviz DOT: one box per dispatch, one cluster per layer, edges with their types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from fusec.ir.graph import LAYER, Graph, Node, Value
from fusec.ir.plan import Launch
from fusec.pictures.drawing import Drawing
from fusec.pictures.style import EARLY, ROLES, role_of
from fusec.pictures.view import Folded, Layers, shown, stands
from fusec.writer import Writer

FONT = 'fontname="Helvetica"'


def to_dot(graph: Graph, launches: Iterable[Launch] = (), *, layers: Layers = None) -> str:
    """The DOT text.

    A box names its place in launch order, its kind, and the ops it holds with their weights. An
    input is drawn once in every layer that reads it, and a state in its layer, so that edges
    between layers are the activations that pass from one to the next. What flows between two boxes
    is one edge, with a line per value, as wide as its bytes are many; states are dashed. `layers`
    chooses the layers to draw; without it, those like an earlier one are one dashed box.

    Of the plan's `launches`, a box has the grid, and one that starts while the launch in front of
    it runs (programmatic dependent launch) has an edge without an arrow.
    Raises FusecError for a layer that the graph does not have.
    """
    part, folded = shown(graph, layers)
    planned = {launch.node: launch for launch in launches}
    w = Writer()
    with w.block(f"digraph {_quoted(part.name)} {{"):
        _head(w, f"{part.name}: {len(part.nodes)} {_unit(planned)}")
        for layer, lines in _by_layer(part, folded, graph.place, planned).items():
            if layer is None:
                for line in lines:
                    w.line(line)
                continue
            with w.block(f"subgraph cluster_{layer} {{"):
                w.line(f'label="layer {layer}"; color="#999999"; fontsize=11; {FONT};')
                for line in lines:
                    w.line(line)
            w.line("}")
        boxes = stands(part, folded)
        for line in (*_edges(part, folded, boxes), *_early(graph, boxes, planned)):
            w.line(line)
    w.line("}")
    return w.text


def drawing_to_dot(drawing: Drawing, title: str) -> str:
    """A drawing that is no graph of the IR, its edges back included."""
    w = Writer()
    with w.block(f"digraph {_quoted(title)} {{"):
        _head(w, title)
        for name, box in drawing.boxes.items():
            label = "".join(f"{_escaped(line)}\\l" for line in (box.title, *box.lines))
            look = (
                f'fillcolor="{ROLES[box.look][0]}"'
                if box.look in ROLES
                else 'shape=plain, style=""'
            )
            w.line(f'{_quoted(name)} [label="{label}", {look}];')
        for (source, target), values in drawing.edges.items():
            w.line(_edge(source, target, values, None))
        for (source, target), values in drawing.back.items():
            line = _edge(source, target, values, None).removesuffix("];")
            w.line(f"{line}, constraint=false];")
    w.line("}")
    return w.text


def _head(w: Writer, title: str) -> None:
    w.line(f"label={_quoted(title)}; labelloc=t; fontsize=16; {FONT};")
    w.line("rankdir=TB; ranksep=0.3; nodesep=0.3;")
    w.line(f'node [shape=box, style="rounded,filled", {FONT}, fontsize=10];')
    w.line(f'edge [{FONT}, fontsize=8, color="#555555", arrowsize=0.7];')


def _by_layer(
    graph: Graph, folded: Folded, place: Mapping[str, int], planned: Mapping[str, Launch]
) -> dict[int | None, list[str]]:
    """Layer (None outside) -> lines that declare its boxes, in launch order."""
    lines: dict[int | None, list[str]] = {}
    for value in graph.states:
        layer = _state_layer(value)
        if value.name in graph.users and layer not in folded:
            lines.setdefault(layer, []).append(_source(value, value.name, "cylinder"))
    for value in graph.inputs:
        for layer in dict.fromkeys(n.layer for n in graph.users.get(value.name, ())):
            if layer not in folded:
                name = _input_name(value, layer)
                lines.setdefault(layer, []).append(_source(value, name, "ellipse"))
    for node in graph.nodes:
        if node.layer not in folded:
            box = _box(place[node.name] + 1, node, planned.get(node.name))
            lines.setdefault(node.layer, []).append(box)
    for run in dict.fromkeys(folded.values()):
        count = sum(folded.get(node.layer) == run for node in graph.nodes)
        label = _quoted(f"{run.title}\n{count} {_unit(planned)}")
        attrs = f'label={label}, style="rounded,dashed"'
        lines.setdefault(None, []).append(f"{_quoted(run.name)} [{attrs}];")
    for value in graph.outputs:
        label = _quoted(f"{_short(value.name, None)}\n{value.type}")
        attrs = f"label={label}, shape=ellipse, style=bold"
        lines.setdefault(None, []).append(f"{_quoted(f'out {value.name}')} [{attrs}];")
    return lines


def _edges(graph: Graph, folded: Folded, boxes: Mapping[str, str]) -> Iterator[str]:
    """What flows between boxes. Of a folded layer, only what passes to and from other layers."""
    flows: dict[tuple[str, str], tuple[dict[str, Value], int | None]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            maker = graph.producers.get(value.name)
            if value.is_weight or (maker is None and node.layer in folded):
                continue
            if maker is not None:
                source = boxes[maker.name]
            else:
                source = value.name if value.is_state else _input_name(value, node.layer)
            ends = source, boxes[node.name]
            if source != ends[1]:
                flows.setdefault(ends, ({}, node.layer))[0][value.name] = value
    for (source, target), (values, layer) in flows.items():
        yield _edge(source, target, [*values.values()], layer)
    for value in graph.outputs:
        maker = graph.producers.get(value.name)
        source = boxes[maker.name] if maker else value.name
        yield _edge(source, f"out {value.name}", [value], None)


def _early(graph: Graph, boxes: Mapping[str, str], planned: Mapping[str, Launch]) -> Iterator[str]:
    """Edges from the launch in front of one that starts early."""
    for front, node in pairwise(graph.nodes):
        source, target = boxes.get(front.name), boxes.get(node.name)
        early = node.name in planned and planned[node.name].early
        if early and source and target and source != target:
            line = f"{_quoted(source)} -> {_quoted(target)}"
            yield f'{line} [color="{EARLY}", arrowhead=none, constraint=false];'


def _edge(source: str, target: str, values: list[Value], layer: int | None) -> str:
    label = _quoted("\n".join(f"  {_short(v.name, layer)} {v.type}  " for v in values))
    style = ", style=dashed" if all(v.is_state for v in values) else ""
    width = edge_width(sum(v.nbytes for v in values))
    return f"{_quoted(source)} -> {_quoted(target)} [label={label}, penwidth={width:.1f}{style}];"


def _unit(planned: Mapping[str, Launch]) -> str:
    """What a graph's nodes are called: each node of a plan is one dispatch."""
    return "dispatches" if planned else "nodes"


def edge_width(nbytes: int) -> float:
    """Pixels of an edge: half a pixel more for each doubling of its bytes, within limits."""
    return min(5.0, max(0.8, 0.45 * math.log2(nbytes / 64 + 1)))


def _source(value: Value, name: str, shape: str) -> str:
    label = _quoted(f"{_short(value.name, _state_layer(value))}\n{value.type}")
    return f'{_quoted(name)} [label={label}, shape={shape}, style="", fontsize=9];'


def _box(place: int, node: Node, launch: Launch | None) -> str:
    colour, _ = ROLES[role_of(node)]
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
