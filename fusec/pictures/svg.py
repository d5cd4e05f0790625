"""A graph as SVG: a box a dispatch, a frame a layer, layers that are alike drawn once.

The text is laid out for a monospaced font, so a picture looks the same wherever it is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from fusec.ir.graph import Graph, Value
from fusec.pictures.dot import edge_width
from fusec.pictures.drawing import Box, Drawing, Notes, draw
from fusec.pictures.layout import Layout, Point, layout
from fusec.pictures.style import EARLY, FAINT, FONT, INK, LINE, MEANINGS, PAPER, ROLES, svg_rules
from fusec.pictures.view import Layers

CHAR, ROW, PAD = 6.35, 14.0, 8.0  # pixels: of a character, a line of text, around them
MARGIN, FRAME = 24.0, 14.0
NARROWEST = 400.0  # pixels of a picture with a legend
BACK = 16.0  # between the lanes of edges that lead back


def to_svg(
    graph: Graph,
    layers: Layers = None,
    *,
    notes: Notes | None = None,
    early: Collection[str] = (),
    title: str = "",
    links: Mapping[str, str] | None = None,
    unit: str = "nodes",
) -> str:
    """The SVG text.

    `layers` chooses the layers to draw; without it, those like an earlier one are one box. `early`
    names nodes whose launch starts while the one before still runs. `links`: for a part of a page,
    which has its own title and legend: where the box of a node leads. `unit`: a node's name.
    Raises FusecError for a layer that the graph does not have.
    """
    drawing = draw(graph, layers, notes=notes, early=early, links=links, unit=unit)
    title = title or f"{graph.name}: {len(graph.nodes)} {unit}"
    return picture(drawing, title, alone=links is None)


def picture(drawing: Drawing, title: str, *, alone: bool = True, legend: bool = True) -> str:
    """A drawing as SVG. `alone`: with title and legend, on paper of its own.

    Of one with edges that lead back all boxes are as wide as the widest.
    """
    sizes = {name: _size(box) for name, box in drawing.boxes.items()}
    if drawing.back:
        widest = max(width for width, _ in sizes.values())
        sizes = {name: (widest, height) for name, (_, height) in sizes.items()}
    placed = layout(sizes, list(drawing.edges))
    return _Picture(drawing, sizes, placed).text(title, alone=alone, legend=legend)


def _size(box: Box) -> tuple[float, float]:
    longest = max(len(box.title) * 1.06, *(len(line) for line in box.lines), 8)
    return longest * CHAR + 2 * PAD, (1 + len(box.lines)) * ROW + 2 * PAD - 4


@dataclass(frozen=True)
class _Picture:
    """A drawing whose boxes have their sizes and places."""

    drawing: Drawing
    sizes: dict[str, tuple[float, float]]
    placed: Layout

    def text(self, title: str, alone: bool, legend: bool) -> str:
        """`alone`: with title, legend and paper; otherwise as small as the boxes let it be."""
        inner = self.placed.width + 2 * FRAME + 2 * BACK * len(self.drawing.back)
        meanings: list[str] = []
        if alone:
            width, head = max(inner, len(title) * 8.6, NARROWEST) + 2 * MARGIN, 30.0
            if legend:
                meanings, head = _legend(width - 2 * MARGIN, bool(self.drawing.early))
        else:
            width, head = inner + 4, 4.0
        height = self.placed.height + head + 2 * FRAME + (MARGIN if alone else 4.0)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" font-family="{FONT}" font-size="10.5">',
            f"<title>{escape(title)}</title>",
        ]
        if alone:
            parts += [
                f"<style>{svg_rules()}</style>",
                f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" fill="{PAPER}"/>',
                f'<text class="ink" x="{MARGIN}" y="24" font-size="14" font-weight="bold" '
                f'fill="{INK}">{escape(title)}</text>',
            ]
        dx, dy = (width - self.placed.width) / 2, head + FRAME
        parts += [*meanings, *self._frames(dx, dy), *self._edges(dx, dy), *self._back(dx, dy)]
        for name, box in self.drawing.boxes.items():
            x, y = self.placed.centres[name]
            parts += _draw(box, x + dx, y + dy, *self.sizes[name])
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _frames(self, dx: float, dy: float) -> Iterable[str]:
        """A frame around the boxes of each layer."""
        layers: dict[int, list[str]] = {}
        for name, box in self.drawing.boxes.items():
            if box.layer is not None:
                layers.setdefault(box.layer, []).append(name)
        for number, names in layers.items():
            corners = [(*self.placed.centres[n], *self.sizes[n]) for n in names]
            left = min(x - w / 2 for x, _, w, _ in corners) + dx - FRAME
            right = max(x + w / 2 for x, _, w, _ in corners) + dx + FRAME
            top = min(y - h / 2 for _, y, _, h in corners) + dy - FRAME
            bottom = max(y + h / 2 for _, y, _, h in corners) + dy + FRAME
            yield (
                f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{bottom - top:.1f}" rx="8" fill="#fafafa" stroke="#bbb"/>'
            )
            at = f'x="{left + 6:.1f}" y="{top + 11:.1f}"'
            yield f'<text class="faint" {at} font-size="9.5" fill="{FAINT}">layer {number}</text>'

    def _edges(self, dx: float, dy: float) -> Iterable[str]:
        early = self.drawing.early
        for ends, values in self.drawing.edges.items():
            points = [(x + dx, y + dy) for x, y in self.placed.routes[ends]]
            yield _edge(points, values, ends in early)
        for ends in early:
            if ends not in self.drawing.edges:
                yield self._beside(*ends, dx, dy)

    def _back(self, dx: float, dy: float) -> Iterable[str]:
        """Edges up again, to the right of everything, each in a lane of its own."""
        for lane, ((source, target), values) in enumerate(self.drawing.back.items(), start=1):
            (x0, y0), (x1, y1) = self.placed.centres[source], self.placed.centres[target]
            start = x0 + self.sizes[source][0] / 2 + dx, y0 + dy + 8 * (lane - 1)
            end = x1 + self.sizes[target][0] / 2 + dx, y1 + dy
            yield _detour(start, end, self.placed.width + dx + BACK * lane, values)

    def _beside(self, source: str, target: str, dx: float, dy: float) -> str:
        """A launch that starts early without reading what the one before it makes."""
        (x0, y0), (x1, y1) = self.placed.centres[source], self.placed.centres[target]
        start, end = x0 - self.sizes[source][0] / 2 + dx, x1 - self.sizes[target][0] / 2 + dx
        left = min(start, end) - 10
        path = (
            f"M{start:.1f} {y0 + dy:.1f}C{left:.1f} {y0 + dy:.1f} "
            f"{left:.1f} {y1 + dy:.1f} {end:.1f} {y1 + dy:.1f}"
        )
        return (
            f'<path class="wire-early" d="{path}" fill="none" stroke="{EARLY}" stroke-width="1.6"/>'
        )


def _legend(width: float, early: bool) -> tuple[list[str], float]:
    """What colours mean, in as many rows as the width asks for, and where the picture begins."""
    parts = []
    x, y = MARGIN, 44.0
    meanings = [*MEANINGS.items(), *([("early", "starts early")] if early else [])]
    for role, meaning in meanings:
        takes = 15 + len(meaning) * 5.9 + 14
        if x + takes - 14 > MARGIN + width:
            x, y = MARGIN, y + 16
        if role == "early":
            mark = f'd="M{x:.1f} {y - 4}h11" stroke="{EARLY}" stroke-width="2"'
            parts.append(f'<path class="wire-early" {mark}/>')
        else:
            at = f'x="{x:.1f}" y="{y - 9}" width="11" height="11" rx="2"'
            parts.append(f'<rect class="{role} box" {at} fill="{ROLES[role][0]}" stroke="#888"/>')
        text = f'x="{x + 15:.1f}" y="{y}" font-size="9.5" fill="{FAINT}"'
        parts.append(f'<text class="faint" {text}>{meaning}</text>')
        x += takes
    return parts, y + 14


def _draw(box: Box, x: float, y: float, width: float, height: float) -> Iterable[str]:
    left, top = x - width / 2, y - height / 2
    if box.look == "end":
        at = f'x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="{INK}"'
        yield f'<text class="ink" {at}>{escape(box.title)}</text>'
        return
    plain = box.look == "plain"
    colour, dash = (PAPER, ' stroke-dasharray="5 3"') if plain else (ROLES[box.look][0], "")
    if box.link:  # the whole box
        yield f'<a href="{escape(box.link)}">'
    name = f' id="{box.anchor}"' if box.anchor else ""
    yield f"<g{name}><title>{escape(box.tip)}</title>"
    yield (
        f'<rect class="{box.look} box" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="5" fill="{colour}" stroke="#666"{dash}/>'
    )
    for i, line in enumerate((box.title, *box.lines)):
        place = f'x="{left + PAD:.1f}" y="{top + PAD + 8 + i * ROW:.1f}" fill="{INK}"'
        bold = "" if i else ' font-weight="bold"'
        yield f'<text class="ink" {place}{bold}>{escape(line)}</text>'
    yield "</g>"
    if box.link:
        yield "</a>"


def _edge(points: list[Point], values: list[Value], early: bool) -> str:
    """Width by bytes, dashed where it is only state, with the values as its tooltip."""
    nbytes = sum(v.nbytes for v in values)
    width = edge_width(nbytes)
    dash = ' stroke-dasharray="6 3"' if all(v.is_state for v in values) else ""
    colour, kind = (EARLY, "-early") if early else (LINE, "")
    (x, y), tip = points[-1], ", ".join(f"{v.name} {v.type}" for v in values)
    arrow = f"M{x - 3.5:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3.5:.1f} {y - 6:.1f}Z"
    return (
        f"<g><title>{escape(tip)}: {nbytes:,} bytes</title>"
        f'<path class="wire{kind}" d="{_curve(points)}" fill="none" stroke="{colour}" '
        f'stroke-width="{width:.1f}"{dash}/>'
        f'<path class="head{kind}" d="{arrow}" fill="{colour}"/></g>'
    )


def _detour(start: Point, end: Point, lane: float, values: list[Value]) -> str:
    """Out to a lane on the right, up, and back to the left."""
    (x0, y0), (x1, y1), bend = start, end, 8.0
    path = (
        f"M{x0:.1f} {y0:.1f}H{lane - bend:.1f}Q{lane:.1f} {y0:.1f} {lane:.1f} {y0 - bend:.1f}"
        f"V{y1 + bend:.1f}Q{lane:.1f} {y1:.1f} {lane - bend:.1f} {y1:.1f}H{x1:.1f}"
    )
    arrow = f"M{x1 + 6:.1f} {y1 - 3.5:.1f}L{x1:.1f} {y1:.1f}L{x1 + 6:.1f} {y1 + 3.5:.1f}Z"
    tip = ", ".join(f"{v.name} {v.type}" for v in values)
    return (
        f"<g><title>{escape(tip)}</title>"
        f'<path class="wire" d="{path}" fill="none" stroke="{LINE}" stroke-width="1.6"/>'
        f'<path class="head" d="{arrow}" fill="{LINE}"/></g>'
    )


def _curve(points: list[Point]) -> str:
    """Smooth and vertical at every point."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        parts.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return re.sub(r"\.0(?=[ CL]|$)", "", "".join(parts))
