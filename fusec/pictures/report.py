"""The report: one HTML file that opens offline, with all there is to see of a compilation."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from fusec import loop_times
from fusec.passes.cost import FITS, resident
from fusec.passes.pipeline import why
from fusec.pictures import memory
from fusec.pictures.loop import LOOKS, Loop
from fusec.pictures.merges import Merge, makers, merges, node_parts
from fusec.pictures.page import render
from fusec.pictures.subject import Subject
from fusec.pictures.tally import Row, Tally, tally
from fusec.pictures.timeline import closeups, lines
from fusec.pictures.view import Layers, shown
from fusec.report import plan_line, size
from fusec.version import __version__
from fusec.walls import bars

SECTIONS = {
    "times": "Where the time goes",
    "plan": "The plan",
    "loop": "The loop of drafted tokens",
    "stages": "How it came about, pass by pass",
    "refused": "What was not merged, and why",
    "kernels": "Kernels",
    "memory": "Memory",
    "sources": "Where the numbers come from",
}
OPEN = 3  # passes whose merges are shown unfolded


def html(subject: Subject, command: str = "", *, layers: Layers = None) -> str:
    """The HTML text. `command`: what made it. `layers`: the part of the plan that is drawn."""
    counted = tally(subject)
    links = {launch.node: f"#kernel-{launch.kernel}" for launch in subject.plan.launches}
    drawn = lines(subject, counted)
    return render(
        "report.html",
        title=subject.title,
        line=plan_line(subject.report),
        unit="token" if subject.plan.tokens == 1 else "step",
        sections={id: title for id, title in SECTIONS.items() if id != "loop" or subject.loop},
        cards=_cards(subject, counted),
        plan=Markup(subject.svg(layers=layers, links=links)),
        first=Markup(subject.svg(subject.stages[0].name, layers=layers, links={})),
        first_count=len(subject.stages[0].graph.nodes),
        early=bool(subject.early),
        counted=counted,
        lines=drawn,
        closeups=closeups(subject, drawn[-1]) if drawn else [],
        constants=subject.gpu.measured if subject.gpu else "",
        made_of={row.kernel: _made_of(subject, row) for row in counted.rows},
        **_unpredicted(subject),
        **_walls(subject),
        **_stages(subject),
        refusals=_refusals(subject),
        kernels=list(_kernels(subject, counted, layers)),
        drafting=_loop(subject.loop),
        **_memory(subject),
        numbers=_numbers(subject, command),
    )


def brief(subject: Subject) -> str:
    """What a notebook shows: the plan in one line, the stages' counts and the picture."""
    rows = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{s.before}</td><td>{s.after}</td><td>{s.hits}</td></tr>"
        for s in subject.stages
    )
    head = "<tr><th>pass</th><th>nodes before</th><th>after</th><th>merges</th></tr>"
    line = escape(plan_line(subject.report))
    return f"<p>{line}</p><table>{head}{rows}</table>{subject.svg()}"


def _cards(subject: Subject, counted: Tally) -> dict[str, str]:
    report = subject.report
    cards = {
        f"dispatches a {'token' if report['tokens'] == 1 else 'step'}": str(counted.launches),
        "of them a layer": str(report["dispatches"]["per_layer"]),
        "critical path": str(report["critical_path"]),
        "weights": size(report["weights_bytes"]),
        "KV cache": f"{size(report['first_states_bytes'])} at first, "
        f"{size(report['states_bytes'])} when full",
        "arena": size(report["arena_bytes"]),
    }
    where = {"predicted": subject.gpu.name if subject.gpu else ""}
    if profile := subject.profile:
        where["measured"] = profile["gpu"] or f"{profile['threads']} CPU threads"
    for source, us in counted.tokens.items():
        cards[f"{source}, {where[source]}"] = f"{us:,.0f} us, {1e6 / us:,.0f} tok/s"
    return cards


def _unpredicted(subject: Subject) -> dict[str, Any]:
    """What has no times, in words, and whether `fusec profile` could measure them."""
    step = subject.plan.tokens > 1
    return {
        "unpredicted": "steps of several rows" if step else "the CPU target",
        "measurable": not step,
    }


def _loop(loop: Loop | None) -> dict[str, Any]:
    """The drawing of the loop, and its rounds where they were measured; empty without one."""
    if loop is None:
        return {}
    found = {"drawing": Markup(loop.svg(alone=False)), "drafter": loop.drafter, "rounds": []}
    if loop.profile is None:
        return found
    rounds = [{**each, "us": loop_times.total(each)} for each in loop.profile["draft"]["rounds"]]
    return found | {
        "rounds": rounds,
        "longest": max(each["us"] for each in rounds),
        "looks": LOOKS,
        "parts": loop_times.PARTS,
        "texts": loop.profile["draft"]["texts"],
        "line": loop_times.line(loop.profile),
    }


def _made_of(subject: Subject, row: Row) -> dict[str, float]:
    """Part of the cost model -> us a token. Of memory and compute only the larger counts."""
    found: dict[str, float] = {}
    for launch in subject.plan.launches:
        if launch.kernel != row.kernel or launch.node not in subject.predicted:
            continue
        guess = subject.predicted[launch.node]
        bound = "memory" if guess.memory > guess.compute else "compute"
        for part in ("boundary", "chain", bound):
            found[part] = found.get(part, 0.0) + getattr(guess, part)
    return found


def _walls(subject: Subject) -> dict[str, Any]:
    """Walls where they were measured: title, us of the token, wall -> us."""
    found = [(title, *both) for title, both in bars(subject.profile).items()] if (
        subject.profile
    ) else []  # fmt: skip
    longest = max((sum(walls.values()) for _, _, walls in found), default=1.0)
    return {"walls": found, "longest_wall": longest, "position": subject.position}


def _merges(subject: Subject) -> list[list[Merge]]:
    """Of each stage; of the first, nothing."""
    return [[], *(merges(a.graph, b.graph) for a, b in pairwise(subject.stages))]


def _stages(subject: Subject) -> dict[str, Any]:
    """Passes that changed something, and the names of those that did not."""
    passes: list[dict[str, Any]] = []
    idle: list[str] = []
    for i, (stage, found) in enumerate(zip(subject.stages, _merges(subject), strict=True)):
        if not found:
            idle += [stage.name] if i else []
            continue
        passes.append(
            {
                "id": f"pass-{i}",
                "name": stage.name,
                "equation": stage.equation,
                "why": why(stage.name),
                "before": stage.before,
                "after": stage.after,
                "hits": stage.hits,
                "refused": len(stage.refused),
                "open": len(passes) < OPEN,
                "merges": [
                    {
                        "times": merge.times,
                        "layers": merge.layers,
                        "before": [node_parts(n) for n in merge.before],
                        "after": [node_parts(n) for n in merge.after],
                    }
                    for merge in found
                ],
            }
        )
    return {"passes": passes, "idle": idle}


def _refusals(subject: Subject) -> list[dict[str, Any]]:
    """Each pass's reasons, with every match that was refused for it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for stage in subject.stages:
        for refusal in stage.refused:
            key = stage.name, refusal.rule, refusal.reason.split(":")[0]
            found.setdefault(key, []).append(f"{' + '.join(refusal.nodes)}: {refusal.reason}")
    return [
        {"pass": name, "rule": rule, "reason": reason, "given": given}
        for (name, rule, reason), given in found.items()
    ]


def _kernels(subject: Subject, counted: Tally, layers: Layers) -> Iterator[dict[str, Any]]:
    """Kernels in order of first launch, each with the boxes that launch it and its passes."""
    rows = {row.kernel: row for row in counted.rows}
    passes = [(f"pass-{i}", stage.name, found) for i, (stage, found) in enumerate(
        zip(subject.stages, _merges(subject), strict=True))]  # fmt: skip
    by_name = {node.name: node for node in subject.graph.nodes}
    for kernel in subject.plan.kernels:
        nodes = [x.node for x in subject.plan.launches if x.kernel == kernel.name]
        words = [str(subject.sizes[kernel.name])] if kernel.name in subject.sizes else []
        if kernel.name in subject.registers:
            words.append(f"{subject.registers[kernel.name]} registers")
        yield {
            "name": kernel.name,
            "launches": len(nodes),
            "share": counted.share(rows[kernel.name]) if nodes and counted.best else None,
            "size": ", ".join(words),
            "uses": _uses(subject, nodes, layers),
            "passes": makers(passes, by_name[nodes[0]]) if nodes else [],
            "region": kernel.region,
            "source": subject.sources[kernel.name],
        }


def _uses(subject: Subject, nodes: list[str], layers: Layers) -> list[dict[str, str]]:
    """Where a kernel is launched: a text for each box of the plan, and the box's anchor."""
    graph = subject.graph
    _, folded = shown(graph, layers)
    anchors = subject.anchors(layers)
    found: dict[str, dict[str, str]] = {}
    counts: dict[str, int] = {}
    for name in nodes:
        layer = graph.producers[name].layer
        place = f"{graph.place[name] + 1}"
        text = place if layer is None else f"{place} in layer {layer}"
        if layer in folded:
            text = folded[layer].name
        found.setdefault(text, {"anchor": anchors.get(name, ""), "text": text})
        counts[text] = counts.get(text, 0) + 1
    for text, count in counts.items():
        if count > 1:
            found[text]["text"] += f" ({count} times)"
    return list(found.values())


def _memory(subject: Subject) -> dict[str, Any]:
    graph = subject.graph
    many = len(graph.nodes) > memory.ZOOM
    return {
        "arena_bytes": subject.plan.arena_bytes,
        "arena_near": Markup(memory.arena(graph, 0, memory.ZOOM)),
        "arena_far": Markup(memory.arena(graph)) if many else "",
        "zoom": memory.ZOOM,
        "residency": _residency(subject),
        "weights": Markup(memory.weights(subject)),
    }


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
    return f"Weights as {subject.gpu.name} holds them, those of layers in front: {held}."


def _numbers(subject: Subject, command: str) -> list[tuple[str, str, str]]:
    rows = [("this report", command or "fusec.pictures.html", f"fusec {__version__}")]
    if subject.gpu is not None:
        rows.append(("predicted times", subject.gpu.measured, f"sizes: {subject.gpu.source}"))
    if subject.loop and subject.loop.profile:
        found = subject.loop.profile
        rows.append(("times of rounds", found["command"], f"{found['date']}, {found['commit']}"))
    if subject.profile:
        found = subject.profile
        rows.append(("measured times", found["command"], f"{found['date']}, {found['commit']}"))
    return [
        *rows,
        ("bytes, grids, registers", "fusec compile, fusec inspect --json", ""),
        ("dispatches, passes, refusals", "fusec inspect --json", ""),
    ]
