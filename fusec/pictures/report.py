"""The report: one HTML file that opens offline, with all there is to see of a compilation."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from fusec.passes.cost import FITS, resident, token_us
from fusec.pictures import memory
from fusec.pictures.stages import refusals, stages
from fusec.pictures.subject import Subject, size
from fusec.pictures.times import kernels, times
from fusec.report import plan_line
from fusec.version import __version__


def html(
    subject: Subject, command: str = "", *, layer: int | None = None, every: bool = False
) -> str:
    """The HTML text. `command`: what made it. `layer` and `every`: see `Subject.svg`."""
    sections = {
        "plan": ("The plan", _plan(subject, layer, every)),
        "times": ("Where the time goes", times(subject)),
        "stages": ("How it came about, stage by stage", stages(subject, layer)),
        "refused": ("What was not merged, and why", refusals(subject)),
        "kernels": ("Kernels", kernels(subject)),
        "memory": ("Memory", _memory(subject)),
        "sources": ("Where the numbers come from", _numbers(subject, command)),
    }
    title = f"{subject.model} at -O{subject.plan.level} for {subject.plan.target}"
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, (name, _) in sections.items())
    style = Path(__file__).with_name("report.css").read_text()
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>",
        f'<h1>{escape(title)}</h1><p class="faint">{escape(_line(subject))}</p>',
        _cards(subject),
        f"<nav>{links}</nav>",
    ]
    for key, (name, body) in sections.items():
        parts.append(f'<section id="{key}"><h2>{escape(name)}</h2>{body}</section>')
    return "\n".join([*parts, "</main></body></html>"]) + "\n"


def brief(subject: Subject) -> str:
    """What a notebook shows: the plan in one line, the stages' counts and the picture."""
    rows = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{s.before}</td><td>{s.after}</td><td>{s.hits}</td></tr>"
        for s in subject.stages
    )
    head = "<tr><th>pass</th><th>nodes before</th><th>after</th><th>merges</th></tr>"
    return f"<p>{escape(_line(subject))}</p><table>{head}{rows}</table>{subject.svg()}"


def _line(subject: Subject) -> str:
    return plan_line(subject.report)


def _cards(subject: Subject) -> str:
    report, dispatches = subject.report, subject.report["dispatches"]
    cards = {
        f"dispatches a {'token' if report['tokens'] == 1 else 'step'}": str(
            len(subject.plan.launches)
        ),
        "of them a layer": str(dispatches["per_layer"]),
        "critical path": str(report["critical_path"]),
        "weights": size(report["weights_bytes"]),
        "KV cache": size(report["states_bytes"]),
        "arena": size(report["arena_bytes"]),
    }
    if subject.gpu is not None:
        guess = token_us(subject.plan, subject.gpu, position=subject.position)
        cards[f"predicted, {subject.gpu.name}"] = f"{guess:,.0f} us, {1e6 / guess:,.0f} tok/s"
    if subject.profile:
        token = subject.profile["token"]
        where = subject.profile["gpu"] or f"{subject.profile['threads']} CPU threads"
        cards[f"measured, {where}"] = f"{token:,.0f} us, {1e6 / token:,.0f} tok/s"
    shown = (
        f'<div class="card"><b>{escape(v)}</b><span class="faint">{escape(k)}</span></div>'
        for k, v in cards.items()
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def _plan(subject: Subject, layer: int | None, every: bool) -> str:
    text = (
        "One box is one dispatch, in launch order. Lines with @ are the weights it reads, with > "
        "what it writes. An arrow is as wide as what it carries is large; dashed ones carry KV "
        "cache only. Positions go to every layer and are left out."
    )
    drawn = subject.svg(layer=layer, every=every)
    before = subject.svg(subject.stages[0].name, layer=layer, every=every)
    return (
        f'<p>{text}</p><div class="wide">{drawn}</div>'
        f"<details><summary>The same before any pass: {len(subject.stages[0].graph.nodes)} nodes"
        f'</summary><div class="wide">{before}</div></details>'
    )


def _memory(subject: Subject) -> str:
    graph = subject.graph
    count = len(graph.nodes)
    parts = [
        f"<p>Activations share one arena of {size(subject.plan.arena_bytes)}. A value holds its "
        "bytes from the launch that makes it to the last that reads it; a launch's inputs and "
        "outputs never share any.</p>",
        f'<div class="wide">{memory.arena(graph, 0, memory.ZOOM)}</div>',
    ]
    if count > memory.ZOOM:
        parts.append(f"<p>The first {memory.ZOOM} launches above, all {count} below.</p>")
        parts.append(f'<div class="wide">{memory.arena(graph)}</div>')
    parts.append(f'<p>{_residency(subject)}</p><div class="wide">{memory.weights(subject)}</div>')
    return "".join(parts)


def _residency(subject: Subject) -> str:
    if subject.gpu is None:
        return "Weights are read where they lie in the model file, mapped into memory."
    held = (
        "all stay in L2 from one token to the next"
        if resident(subject.plan, subject.gpu)
        else f"more than {FITS:.0%} of its L2, so every token reads them from memory"
    )
    if subject.plan.prefetches:
        held += ", those of a layer beside the layer in front of it"
    return f"Weights as {escape(subject.gpu.name)} holds them, those of layers in front: {held}."


def _numbers(subject: Subject, command: str) -> str:
    rows = [("this report", command or "fusec.pictures.html", f"fusec {__version__}")]
    if subject.gpu is not None:
        rows.append(("predicted times", subject.gpu.measured, f"sizes: {subject.gpu.source}"))
    if subject.profile:
        found = subject.profile
        rows.append(("measured times", found["command"], f"{found['date']}, {found['commit']}"))
    rows += [
        ("bytes, grids, registers", "fusec compile, fusec inspect --json", ""),
        ("dispatches, stages, refusals", "fusec inspect --json", ""),
    ]
    return _table(("what", "command", ""), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f'<th class="text">{escape(t)}</th>' for t in head)
    lines = (
        "<tr>" + "".join(f'<td class="text wrap">{escape(c)}</td>' for c in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"
