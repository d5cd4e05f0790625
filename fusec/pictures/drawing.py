"""What a picture of a graph has: boxes with their lines, and the arrows between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.ops import op
from fusec.pictures.style import role_of
from fusec.pictures.view import Layers, Run, shown, stands

Notes = Callable[[Sequence[Node]], list[str]]
"""The nodes of a box, one or those of several layers -> lines to write in it."""

MOST_WEIGHTS = 4
LONGEST = 46  # characters of a line, where it can be broken at a comma


@dataclass
class Box:
    """What is drawn for one dispatch, for layers drawn once already, or for an end of the graph.

    `look`: the role that colours it, `plain` for layers drawn already, or `end`. `anchor` and
    `link`: its name in a page and where it leads there; empty in a picture of its own.
    """

    title: str
    lines: list[str]
    look: str
    layer: int | None
    tip: str
    anchor: str = ""
    link: str = ""


@dataclass
class Drawing:
    """Boxes by name; edges with the values they carry; `early`: pairs of launches that overlap.

    `back`: edges that lead up again, so that the others make no cycle.
    """

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[Value]] = field(default_factory=dict)
    early: list[tuple[str, str]] = field(default_factory=list)
    back: dict[tuple[str, str], list[Value]] = field(default_factory=dict)


def draw(
    graph: Graph,
    layers: Layers = None,
    *,
    notes: Notes | None = None,
    early: Collection[str] = (),
    links: Mapping[str, str] | None = None,
    unit: str = "nodes",
) -> Drawing:
    """What `to_svg` draws, with the same arguments."""
    part, folded = shown(graph, layers)
    names = stands(part, folded)
    drawing = Drawing()
    for node in part.nodes:
        name = names[node.name]
        if name in drawing.boxes:
            continue
        if node.layer in folded:
            box = _like(graph, folded[node.layer], notes, unit)
        else:
            box = _box(graph.place[node.name] + 1, node, notes)
        if links is not None and node.name in links:
            box.anchor, box.link = anchor(graph, name), links[node.name]
        drawing.boxes[name] = box
    for front, node in pairwise(graph.nodes):
        ends = names.get(front.name), names.get(node.name)
        if node.name in early and None not in ends and ends[0] != ends[1]:
            drawing.early.append((names[front.name], names[node.name]))
    _connect(drawing, part, names)
    return drawing


def anchor(graph: Graph, box: str) -> str:
    """The name that a box has in a page: of its place in launch order, or of its layers."""
    if box in graph.place:
        return f"box-{graph.place[box] + 1}"
    return box.replace(" ", "-")


def _box(place: int, node: Node, notes: Notes | None) -> Box:
    lines = []
    if node.body:
        counts = Counter(n.op for n in node.body)
        lines += broken(", ".join(f"{c} {o}" if c > 1 else o for o, c in counts.items()))
    weights = [f"@ {_short(v, node.layer)} {v.type}" for v in node.weights]
    lines += weights[:MOST_WEIGHTS]
    if len(weights) > MOST_WEIGHTS:
        lines[-1] += f" and {len(weights) - MOST_WEIGHTS} more"
    if kept := [f"${_short(v, node.layer)}" for v in node.inputs if v.is_state]:
        lines.append(f"state {' '.join(kept)}")
    lines += [f"> {_short(v, node.layer)} {v.type}" for v in node.outputs if not v.is_state]
    for note in notes([node]) if notes else []:
        lines += broken(note)
    return Box(f"{place}  {node.kind}", lines, role_of(node), node.layer, node.name)


def _like(graph: Graph, run: Run, notes: Notes | None, unit: str) -> Box:
    """The box of layers that look like one that is drawn."""
    mine = [n for n in graph.nodes if n.layer is not None and run.first <= n.layer <= run.last]
    weights = sum(v.nbytes for n in mine for v in n.weights)
    lines = [f"{len(mine)} {unit}, {weights / 1e6:,.1f} MB of weights"]
    lines += notes(mine) if notes else []
    return Box(run.title, lines, "plain", None, run.name)


def broken(line: str) -> list[str]:
    """A long list of words over several lines."""
    lines = [""]
    for word in line.split(", "):
        if lines[-1] and len(lines[-1]) + len(word) + 2 > LONGEST:
            lines[-1] += ","
            lines.append(word)
        else:
            lines[-1] += f", {word}" if lines[-1] else word
    return lines


def _connect(drawing: Drawing, graph: Graph, names: Mapping[str, str]) -> None:
    """Edges between boxes, and from and to the ends of the graph.

    Left out, because they would lead everywhere: positions, and states as they were before.
    """
    for node in graph.nodes:
        for value in dict.fromkeys(v for v in node.inputs if not v.is_weight):
            maker = graph.producers.get(value.name)
            if maker is not None:
                _join(drawing, names[maker.name], names[node.name], value)
            elif not value.is_state and not _is_position(graph, value):
                _join(drawing, _end(drawing, "in", value), names[node.name], value)
    for value in graph.outputs:
        maker = graph.producers.get(value.name)
        if maker is not None:
            _join(drawing, names[maker.name], _end(drawing, "out", value), value)


def _is_position(graph: Graph, value: Value) -> bool:
    readers = (n for user in graph.users.get(value.name, ()) for n in user.ops)
    embeds = any(op(n.op).rows_read and value in n.inputs for n in readers)
    return value.dtype == "i32" and not embeds


def _join(drawing: Drawing, source: str, target: str, value: Value) -> None:
    if source != target:
        values = drawing.edges.setdefault((source, target), [])
        if value not in values:
            values.append(value)


def _end(drawing: Drawing, side: str, value: Value) -> str:
    name = f"{side} {value.name}"
    drawing.boxes[name] = Box(f"{value.name} {value.type}", [], "end", None, value.name)
    return name


def _short(value: Value, layer: int | None) -> str:
    return value.name[1:].removeprefix(f"blk.{layer}.").removesuffix(".weight")
