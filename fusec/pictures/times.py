"""The report's times: walls, kernels predicted beside measured, and the kernels' sources."""

from __future__ import annotations

from html import escape

from fusec.passes import cost
from fusec.pictures.subject import Subject, size
from fusec.walls import COLOURS, bars

BAR = 620.0  # pixels of the longest bar
PARTS = {"boundary": "#E69F00", "chain": "#CC79A7", "memory": "#0072B2", "compute": "#009E73"}


def times(subject: Subject) -> str:
    """Walls where they were measured; then a row a kernel."""
    if subject.gpu is None and not subject.profile:
        return (
            "<p>Nothing is predicted for the CPU target. <code>fusec profile MODEL --json FILE"
            "</code> measures it, and <code>fusec inspect --profile FILE --html</code> shows it."
            "</p>" + _table(subject)
        )
    parts = []
    if subject.profile:
        parts.append(walls(subject))
    if subject.gpu is not None:
        parts.append(
            "<p>A launch is predicted as boundary + chain + the larger of memory and compute: what "
            "every launch costs, waits that follow one another inside it, bytes over bandwidth, "
            f"instructions over their rate. Constants: {escape(subject.gpu.measured)}.</p>"
        )
    return "".join([*parts, _table(subject)])


def walls(subject: Subject) -> str:
    """The walls as stacked bars, the token's own time beside them."""
    profile = subject.profile
    assert profile is not None
    shown = bars(profile)
    scale = BAR / max(max(token, sum(w.values())) for token, w in shown.values())
    key = "".join(
        f'<span class="key-word"><span class="bar" style="width:12px;background:{colour}"></span> '
        f"{wall}</span> "
        for wall, colour in COLOURS.items()
    )
    rows = []
    for title, (token, found) in shown.items():
        bar = "".join(_bar(us * scale, COLOURS[wall], f"{wall}: {us:,.1f} us", 18)
                      for wall, us in found.items())  # fmt: skip
        numbers = ", ".join(f"{wall} {us:,.1f}" for wall, us in found.items())
        rows.append(
            f'<tr><td>{escape(title)}</td><td class="text">{bar}</td></tr><tr><td></td>'
            f'<td class="text faint">{numbers}: together {sum(found.values()):,.1f} us, the token '
            f"{token:,.1f} us ({sum(found.values()) / token:.0%})</td></tr>"
        )
    return (
        "<p>The four walls, each measured by an experiment of its own, in us a token at position "
        f"{subject.position}. {key}</p><table>{''.join(rows)}</table>"
    )


def _table(subject: Subject) -> str:
    """A row a kernel, in order of first launch."""
    nodes: dict[str, list[str]] = {}
    for launch in subject.plan.launches:
        nodes.setdefault(launch.kernel, []).append(launch.node)
    longest = max(
        [c.total for c in subject.predicted.values()] + list(subject.measured.values()) + [0.01]
    )
    by_name = {node.name: node for node in subject.graph.nodes}
    rows = []
    for kernel, names in nodes.items():
        cells = [
            escape(kernel),
            str(len(names)),
            str(subject.sizes.get(kernel, "")),
            str(subject.registers.get(kernel, "")),
            size(cost.moved(by_name[names[0]], subject.position)),
        ]
        drawn = ""
        if guess := subject.predicted.get(names[0]):
            cells += [f"{guess.total:.2f}"]
            drawn += _predicted(guess, 280 / longest) + "<br>"
        if all(n in subject.measured for n in names):
            mean = sum(subject.measured[n] for n in names) / len(names)
            cells += [f"{mean:.2f}", f"{mean * len(names):,.1f}"]
            drawn += _bar(mean * 280 / longest, "#444", f"measured: {mean:.2f} us")
        row = "".join(f"<td>{c}</td>" for c in cells)
        rows.append(f'<tr>{row}<td class="text" style="line-height:1">{drawn}</td></tr>')
    heads = ["kernel", "launches", "grid", "registers", "bytes"]
    heads += ["predicted us"] if subject.predicted else []
    heads += ["measured us", "us a token"] if subject.measured else []
    head = "".join(f"<th>{h}</th>" for h in heads)
    legend = "".join(
        f'<span class="bar" style="width:12px;background:{colour}"></span> {name} &nbsp; '
        for name, colour in PARTS.items()
    )
    measured = '<span class="bar" style="width:12px;background:#444"></span> measured'
    note = f"<p>{legend}{measured if subject.measured else ''}</p>" if subject.predicted else ""
    return f'{note}<div class="wide"><table><tr>{head}<th></th></tr>{"".join(rows)}</table></div>'


def _predicted(guess: cost.Cost, scale: float) -> str:
    """What decides is drawn: of memory and compute only the larger counts."""
    bound = "memory" if guess.memory > guess.compute else "compute"
    parts = {"boundary": guess.boundary, "chain": guess.chain, bound: getattr(guess, bound)}
    return "".join(_bar(us * scale, PARTS[p], f"{p}: {us:.2f} us") for p, us in parts.items())


def _bar(width: float, colour: str, tip: str, height: int = 9) -> str:
    return (
        f'<span class="bar" style="width:{width:.1f}px;height:{height}px;background:{colour}" '
        f'title="{escape(tip)}"></span>'
    )


def kernels(subject: Subject) -> str:
    """Each kernel's source beside the IR it was made from."""
    counts: dict[str, int] = {}
    for launch in subject.plan.launches:
        counts[launch.kernel] = counts.get(launch.kernel, 0) + 1
    return "".join(
        f"<details><summary><code>{escape(k.name)}</code>, {counts.get(k.name, 0)} launches"
        f'{_shape(subject, k.name)}</summary><div class="pair">'
        f"<pre>{escape(k.region)}</pre><pre>{escape(subject.sources[k.name])}</pre></div></details>"
        for k in subject.plan.kernels
    )


def _shape(subject: Subject, kernel: str) -> str:
    words = [str(subject.sizes[kernel])] if kernel in subject.sizes else []
    words += [f"{subject.registers[kernel]} registers"] if kernel in subject.registers else []
    return "".join(f", {word}" for word in words)
