"""A graph as SVG: a box a dispatch, a frame a layer, layers that are alike drawn once.

The text is laid out for a monospaced font, so a picture looks the same wherever it is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.ops import op
from fusec.pictures.dot import COLOURS, EARLY, edge_width
from fusec.pictures.layout import Layout, Point, layout
from fusec.pictures.view import runs

Notes = Callable[[Sequence[Node]], list[str]]
"""The nodes of a box, one or those of several layers -> lines to write in it."""

CHAR, LINE, PAD = 6.35, 14.0, 8.0  # pixels: of a character, a line of text, around them
MARGIN, FRAME = 24.0, 14.0
MOST_WEIGHTS = 4
LEGEND = {
    "rows": "matrix times vector",
    "heads": "attention",
    "vector": "embedding, norm",
    "store": "KV cache, RoPE",
    "scalar": "reduction",
    "element": "element by element",
}


@dataclass
class Box:
    """What is drawn for one dispatch, for layers drawn once already, or for an end of the graph."""

    title: str
    lines: list[str]
    colour: str
    layer: int | None
    tip: str
    dashed: bool = False


@dataclass
class Drawing:
    """Boxes by name; edges with the values they carry; `early`: pairs of launches that overlap."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[Value]] = field(default_factory=dict)
    early: list[tuple[str, str]] = field(default_factory=list)


def to_svg(
    graph: Graph,
    *,
    every: bool = False,
    notes: Notes | None = None,
    early: Collection[str] = (),
    places: Mapping[str, int] | None = None,
    title: str = "",
) -> str:
    """The SVG text.

    `every` draws each layer; otherwise layers like an earlier one are one box. `early` names nodes
    whose launch starts while the one before still runs. `places`: launch order, where `graph` is a
    part of another.
    """
    order = places or {node.name: i for i, node in enumerate(graph.nodes, start=1)}
    drawing = _drawing(graph, every, notes, early, order)
    sizes = {name: _size(box) for name, box in drawing.boxes.items()}
    placed = layout(sizes, list(drawing.edges))
    return _render(drawing, sizes, placed, title or f"{graph.name}: {len(graph.nodes)} nodes")


# --- what is drawn -------------------------------------------------------------------------------


def _drawing(
    graph: Graph,
    every: bool,
    notes: Notes | None,
    early: Collection[str],
    order: Mapping[str, int],
) -> Drawing:
    drawing = Drawing()
    folded = {} if every else runs(graph)
    stands: dict[str, str] = {}  # node -> the box it is drawn in
    before = ""
    for node in graph.nodes:
        name = node.name
        if node.layer in folded:
            low, high, like = folded[node.layer]
            name = f"layers {low} to {high}"
            if name not in drawing.boxes:
                drawing.boxes[name] = _like(graph, low, high, like, notes)
        else:
            drawing.boxes[name] = _box(order[name], node, notes)
        stands[node.name] = name
        if node.name in early and before not in ("", name):
            drawing.early.append((before, name))
        before = name
    _connect(drawing, graph, stands)
    return drawing


def _box(place: int, node: Node, notes: Notes | None) -> Box:
    roles = {op(n.op).role for n in node.ops}
    colour = next(c for role, c in COLOURS.items() if role in roles)
    lines = []
    if node.body:
        counts = Counter(n.op for n in node.body)
        lines.append(", ".join(f"{c} {o}" if c > 1 else o for o, c in counts.items()))
    weights = [f"@ {_short(v, node.layer)} {v.type}" for v in node.weights]
    lines += weights[:MOST_WEIGHTS]
    if len(weights) > MOST_WEIGHTS:
        lines[-1] += f" and {len(weights) - MOST_WEIGHTS} more"
    if kept := [f"${_short(v, node.layer)}" for v in node.inputs if v.is_state]:
        lines.append(f"state {' '.join(kept)}")
    lines += [f"> {_short(v, node.layer)} {v.type}" for v in node.outputs if not v.is_state]
    lines += notes([node]) if notes else []
    return Box(f"{place}  {node.kind}", lines, colour, node.layer, node.name)


def _like(graph: Graph, low: int, high: int, like: int, notes: Notes | None) -> Box:
    """The box of layers that look like one that is drawn."""
    mine = [n for n in graph.nodes if n.layer is not None and low <= n.layer <= high]
    several = f"layers {low} to {high}: each as layer {like}"
    title = several if high > low else f"layer {low}: as layer {like}"
    weights = sum(v.nbytes for n in mine for v in n.weights)
    lines = [f"{len(mine)} dispatches, {weights / 1e6:,.1f} MB of weights"]
    lines += notes(mine) if notes else []
    return Box(title, lines, "#ffffff", None, f"layers {low} to {high}", dashed=True)


def _connect(drawing: Drawing, graph: Graph, stands: Mapping[str, str]) -> None:
    """Edges between boxes, and from and to the ends of the graph.

    Left out, because they would lead everywhere: positions, and states as they were before.
    """
    for node in graph.nodes:
        for value in dict.fromkeys(v for v in node.inputs if not v.is_weight):
            maker = graph.producers.get(value.name)
            if maker is not None:
                _join(drawing, stands[maker.name], stands[node.name], value)
            elif not value.is_state and not _is_position(graph, value):
                _join(drawing, _end(drawing, "in", value), stands[node.name], value)
    for value in graph.outputs:
        maker = graph.producers.get(value.name)
        if maker is not None:
            _join(drawing, stands[maker.name], _end(drawing, "out", value), value)


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
    drawing.boxes[name] = Box(f"{value.name} {value.type}", [], "none", None, value.name)
    return name


def _short(value: Value, layer: int | None) -> str:
    return value.name[1:].removeprefix(f"blk.{layer}.").removesuffix(".weight")


# --- how it is drawn -----------------------------------------------------------------------------


def _size(box: Box) -> tuple[float, float]:
    longest = max(len(box.title) * 1.06, *(len(line) for line in box.lines), 8)
    return longest * CHAR + 2 * PAD, (1 + len(box.lines)) * LINE + 2 * PAD - 4


def _render(
    drawing: Drawing, sizes: dict[str, tuple[float, float]], placed: Layout, title: str
) -> str:
    head = 58.0
    width = max(placed.width + 2 * MARGIN + 2 * FRAME, len(title) * 8.6 + 2 * MARGIN, 810.0)
    height = placed.height + head + MARGIN + 2 * FRAME
    dx, dy = (width - placed.width) / 2, head + FRAME
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" '
        f'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="10.5">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_legend(MARGIN, 44.0, bool(drawing.early)),
        *_frames(drawing, sizes, placed, dx, dy),
    ]
    for (source, target), values in drawing.edges.items():
        points = [(x + dx, y + dy) for x, y in placed.routes[source, target]]
        parts.append(_edge(points, values, (source, target) in drawing.early))
    for source, target in drawing.early:
        if (source, target) not in drawing.edges:
            parts.append(_early(source, target, sizes, placed, dx, dy))
    for name, box in drawing.boxes.items():
        x, y = placed.centres[name]
        parts += _draw(box, x + dx, y + dy, *sizes[name])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(x: float, y: float, early: bool) -> Iterable[str]:
    for role, meaning in LEGEND.items():
        yield (
            f'<rect x="{x}" y="{y - 9}" width="11" height="11" rx="2" fill="{COLOURS[role]}" '
            f'stroke="#888"/>'
        )
        yield f'<text x="{x + 15}" y="{y}" font-size="9.5" fill="#444">{meaning}</text>'
        x += 15 + len(meaning) * 5.9 + 14
    if early:
        yield f'<path d="M{x} {y - 4}h20" stroke="{EARLY}" stroke-width="2"/>'
        yield f'<text x="{x + 24}" y="{y}" font-size="9.5" fill="#444">starts early</text>'


def _frames(
    drawing: Drawing, sizes: dict[str, tuple[float, float]], placed: Layout, dx: float, dy: float
) -> Iterable[str]:
    """A frame around the boxes of each layer."""
    layers: dict[int, list[str]] = {}
    for name, box in drawing.boxes.items():
        if box.layer is not None:
            layers.setdefault(box.layer, []).append(name)
    for number, names in layers.items():
        left = min(placed.centres[n][0] - sizes[n][0] / 2 for n in names) + dx - FRAME
        right = max(placed.centres[n][0] + sizes[n][0] / 2 for n in names) + dx + FRAME
        top = min(placed.centres[n][1] - sizes[n][1] / 2 for n in names) + dy - FRAME
        bottom = max(placed.centres[n][1] + sizes[n][1] / 2 for n in names) + dy + FRAME
        yield (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" rx="8" fill="#fafafa" stroke="#bbb"/>'
        )
        at = f'x="{left + 6:.1f}" y="{top + 11:.1f}"'
        yield f'<text {at} font-size="9.5" fill="#777">layer {number}</text>'


def _draw(box: Box, x: float, y: float, width: float, height: float) -> Iterable[str]:
    left, top = x - width / 2, y - height / 2
    if box.colour == "none":
        yield f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(box.title)}</text>'
        return
    dash = ' stroke-dasharray="5 3"' if box.dashed else ""
    yield f"<g><title>{escape(box.tip)}</title>"
    yield (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
        f'fill="{box.colour}" stroke="#666"{dash}/>'
    )
    at = top + PAD + 8
    yield f'<text x="{left + PAD:.1f}" y="{at:.1f}" font-weight="bold">{escape(box.title)}</text>'
    for line in box.lines:
        at += LINE
        yield f'<text x="{left + PAD:.1f}" y="{at:.1f}" fill="#333">{escape(line)}</text>'
    yield "</g>"


def _edge(points: list[Point], values: list[Value], early: bool) -> str:
    """Width by bytes, dashed where it is only state, with the values as its tooltip."""
    nbytes = sum(v.nbytes for v in values)
    width = edge_width(nbytes)
    dash = ' stroke-dasharray="6 3"' if all(v.is_state for v in values) else ""
    colour = EARLY if early else "#777"
    (x, y), tip = points[-1], ", ".join(f"{v.name} {v.type}" for v in values)
    arrow = f"M{x - 3.5:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3.5:.1f} {y - 6:.1f}Z"
    return (
        f"<g><title>{escape(tip)}: {nbytes:,} bytes</title>"
        f'<path d="{_curve(points)}" fill="none" stroke="{colour}" '
        f'stroke-width="{width:.1f}"{dash}/>'
        f'<path d="{arrow}" fill="{colour}"/></g>'
    )


def _early(
    source: str,
    target: str,
    sizes: dict[str, tuple[float, float]],
    placed: Layout,
    dx: float,
    dy: float,
) -> str:
    """A launch that starts early without reading what the one before it makes."""
    (x0, y0), (x1, y1) = placed.centres[source], placed.centres[target]
    left = min(x0 - sizes[source][0] / 2, x1 - sizes[target][0] / 2) + dx - 10
    path = (
        f"M{x0 + dx - sizes[source][0] / 2:.1f} {y0 + dy:.1f}C{left:.1f} {y0 + dy:.1f} "
        f"{left:.1f} {y1 + dy:.1f} {x1 + dx - sizes[target][0] / 2:.1f} {y1 + dy:.1f}"
    )
    return f'<path d="{path}" fill="none" stroke="{EARLY}" stroke-width="1.6"/>'


def _curve(points: list[Point]) -> str:
    """Smooth and vertical at every point."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        parts.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return re.sub(r"\.0(?=[ CL]|$)", "", "".join(parts))
