"""Memory as SVG: who holds which bytes of the arena when, and which weights L2 could keep."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from fusec.ir.graph import LAYER, Graph
from fusec.ir.plan import LaunchPlan
from fusec.passes.memory import Slot, plan_memory
from fusec.pictures.subject import Subject
from fusec.report import size
from fusec.runtime.cuda.window import order_of_weights

WIDTH = 1120.0
LEFT, BAND, TOP = 92.0, 20.0, 30.0
PALETTE = (  # Okabe & Ito 2008, lightened where text is written on them
    *("#8ecae6", "#f6bd60", "#84c7a5", "#f4a7c0", "#cdb4db", "#e9d985", "#b5c99a", "#a3b8cc"),
    *("#e5989b", "#9ad1d4", "#d4a373", "#c9c9c9"),
)
FONT = 'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="9.5"'
ZOOM = 40  # launches that are drawn wide enough to be named


def arena(graph: Graph, first: int = 0, last: int | None = None) -> str:
    """Launches from left to right, offsets from top to bottom, a box a value.

    Bands are the offsets at which values begin, not to scale: logits are a hundred times as large
    as what the layers hand on. `first` and `last` choose launches.
    """
    slots = list(dict.fromkeys(plan_memory(graph).values()))
    end = len(graph.nodes) if last is None else min(last, len(graph.nodes))
    offsets = sorted({slot.offset for slot in slots})
    step = (WIDTH - LEFT - 8) / max(1, end - first)
    height = TOP + BAND * len(offsets) + 60
    kinds = dict.fromkeys(_kind(s) for s in sorted(slots, key=lambda s: s.first))
    colour = {kind: PALETTE[i % len(PALETTE)] for i, kind in enumerate(kinds)}
    parts = [_open(height)]
    for row, offset in enumerate(offsets):
        y = TOP + row * BAND
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 8}" stroke="#ddd" class="grid"/>')
        at = f'x="{LEFT - 6}" y="{y + 13:.1f}" text-anchor="end"'
        parts.append(f'<text class="ink" {at}>{offset:,}</text>')
    for slot in slots:
        if slot.last < first or slot.first >= end:
            continue
        low = max(slot.first, first)
        high = min(slot.last + 1, end)
        rows = [r for r, o in enumerate(offsets) if slot.offset <= o < slot.offset + slot.size]
        x, y = LEFT + (low - first) * step, TOP + rows[0] * BAND + 1
        width, tall = max((high - low) * step - 1, 1.0), len(rows) * BAND - 2
        what = (
            f"{slot.value.name} {slot.value.type}, {slot.value.nbytes:,} bytes at {slot.offset:,}"
        )
        span = f"dispatches {slot.first + 1} to {min(slot.last, len(graph.nodes) - 1) + 1}"
        parts.append(
            f'<g><title>{escape(what)}, {span}</title><rect x="{x:.1f}" y="{y:.1f}" '
            f'width="{width:.1f}" height="{tall:.1f}" rx="2" fill="{colour[_kind(slot)]}"/>'
        )
        name = slot.value.name[1:].removeprefix("blk.")
        if len(name) * 5.8 < width - 4:
            parts.append(f'<text x="{x + 3:.1f}" y="{y + 12:.1f}">{escape(name)}</text>')
        parts.append("</g>")
    x = LEFT
    for kind, fill in colour.items():
        y = TOP + BAND * len(offsets) + 50
        parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" fill="{fill}"/>')
        text = f'<text class="ink" x="{x + 13:.1f}" y="{y:.1f}">{escape(kind[1:])}</text>'
        parts.append(text)
        x += 13 + len(kind) * 5.8 + 8
    parts += _ticks(first, end, step, TOP + BAND * len(offsets))
    at = f'x="{LEFT - 6}" y="18" text-anchor="end"'
    parts.append(f'<text {at} fill="#666" class="faint">byte</text>')
    return "".join([*parts, "</svg>"])


def weights(subject: Subject) -> str:
    """The weights in the order in which a GPU holds them, to scale, against its L2."""
    plan = subject.plan
    groups = _groups(plan, subject)
    total = sum(nbytes for _, nbytes in groups)
    l2 = subject.gpu.l2_bytes if subject.gpu else 0
    scale = (WIDTH - 40) / max(total, l2, 1)
    parts = [_open(112.0)]
    x = 20.0
    for i, (name, nbytes) in enumerate(groups):
        width = nbytes * scale
        inside = name.startswith("layer")
        fill = ("#8ecae6", "#b8dff0")[i % 2] if inside else ("#f6bd60", "#f9d69b")[i % 2]
        parts.append(
            f"<g><title>{escape(name)}: {size(nbytes)}</title>"
            f'<rect x="{x:.2f}" y="28" width="{max(width, 0.5):.2f}" height="34" fill="{fill}"/>'
        )
        label = name.removeprefix("layer ") if width < len(name) * 6 else name
        if width > len(label) * 6:
            parts.append(f'<text x="{x + 3:.1f}" y="49">{escape(label)}</text>')
        parts.append("</g>")
        x += width
    if subject.gpu:
        at = f'x="20" y="68" width="{l2 * scale:.1f}" height="10" fill="none" stroke="#444"'
        label = f"L2 of {escape(subject.gpu.name)}: {size(l2)}"
        parts.append(f'<rect class="box" {at}/>')
        parts.append(f'<text class="faint" x="24" y="94" fill="#444">{label}</text>')
    parts.append(
        f'<text x="20" y="18" fill="#666" class="faint">{size(total)} of weights, by layer</text>'
    )
    return "".join([*parts, "</svg>"])


def _groups(plan: LaunchPlan, subject: Subject) -> list[tuple[str, int]]:
    """Layer or name -> bytes, in the order of memory."""
    inside, outside = order_of_weights(plan)
    nbytes = {v.name: v.nbytes for v in subject.graph.weights}
    found: dict[str, int] = {}
    for name in (*inside, *outside):
        layer = LAYER.search(name)
        key = f"layer {layer[1]}" if layer else name[1:].removesuffix(".weight")
        found[key] = found.get(key, 0) + nbytes.get(name, 0)
    return list(found.items())


def _kind(slot: Slot) -> str:
    """A value's name without its layer."""
    return LAYER.sub("", slot.value.name)


def _ticks(first: int, end: int, step: float, y: float) -> Iterable[str]:
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n * step > 28 or n == 500)
    for i in range(first, end):
        if (i + 1) % every == 0 or i == first:
            x = LEFT + (i - first + 0.5) * step
            at = f'x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle"'
            yield f'<text {at} fill="#666" class="faint">{i + 1}</text>'
    yield f'<text x="{LEFT}" y="{y + 30:.1f}" fill="#666" class="faint">dispatch</text>'


def _open(height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" '
        f'width="{WIDTH:.0f}" height="{height:.0f}" {FONT}>'
    )
