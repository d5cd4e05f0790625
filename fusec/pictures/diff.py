"""Two plans compared: their sizes, and which dispatches of one became which of the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx
from markupsafe import Markup
from rich.table import Table

from fusec.ir.graph import Graph, Node
from fusec.pictures.merges import node_parts
from fusec.pictures.page import render
from fusec.pictures.subject import Subject
from fusec.pictures.view import span
from fusec.report import make_table

SAME = "Every dispatch of one plan computes what one dispatch of the other does."


@dataclass(frozen=True)
class Change:
    """Dispatches of a and those of b that compute the same.

    What happened alike several `times` is one: `a` and `b` are the nodes of the first, `us_a` and
    `us_b` the times of all, measured or else predicted, None without either.
    """

    a: list[Node]
    b: list[Node]
    times: int
    layers: str
    us_a: float | None
    us_b: float | None

    def data(self) -> dict[str, Any]:
        """As `fusec diff --json` prints it."""
        kinds = {"a": [n.kind for n in self.a], "b": [n.kind for n in self.b]}
        times = {"us_a": self.us_a, "us_b": self.us_b}
        return {**kinds, "times": self.times, "layers": self.layers, **times}


def compare(a: Subject, b: Subject) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "a": a.title,
        "b": b.title,
        "sizes": _sizes(a, b),
        "changes": [change.data() for change in changes(a, b)],
        "kernels": {
            "only a": sorted(set(a.sources) - set(b.sources)),
            "only b": sorted(set(b.sources) - set(a.sources)),
        },
    }


def html(a: Subject, b: Subject, command: str = "") -> str:
    """The comparison as a page that opens offline. `command`: what made it."""
    data = compare(a, b)
    shown = [
        {
            **vars(change),
            "a": [node_parts(n) for n in change.a],
            "b": [node_parts(n) for n in change.b],
        }
        for change in changes(a, b)
    ]
    return render(
        "diff.html",
        title=f"{a.title} and {b.title}" if a.model != b.model else _short_title(a, b),
        sections={"sizes": "Sizes", "changes": "What became of what", "plans": "Both plans"},
        data=data,
        known_sizes=known_sizes(data),
        changes=shown,
        same=SAME,
        plans=[Markup(subject.svg(links={})) for subject in (a, b)],
        command=command,
    )


def _short_title(a: Subject, b: Subject) -> str:
    """For two plans of one model."""
    one, two = (f"-O{subject.plan.level} for {subject.plan.target}" for subject in (a, b))
    return f"{a.model} at {one} and {two}"


def known_sizes(data: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """The sizes without those that neither plan has, such as times on the CPU."""
    return {name: pair for name, pair in data["sizes"].items() if pair != (None, None)}


def tables(data: dict[str, Any]) -> Iterator[Table | str]:
    """Sizes, then what became of what, in a sentence where nothing did."""
    sizes = make_table(f"a: {data['a']}\nb: {data['b']}")
    sizes.add_column("")
    for title in ("a", "b", "b - a"):
        sizes.add_column(title, justify="right")
    for name, (left, right) in known_sizes(data).items():
        change = "" if left is None or right is None else f"{right - left:+,.10g}"
        sizes.add_row(name, *("" if x is None else f"{x:,.10g}" for x in (left, right)), change)
    yield sizes
    if not data["changes"]:
        yield SAME
        return
    changes = make_table("dispatches that differ")
    sides = [side for side in "ab" if any(c[f"us_{side}"] is not None for c in data["changes"])]
    for title in ("a", "b"):
        changes.add_column(title, overflow="fold")
    for title in ("times", "layers", *(f"us {side}" for side in sides)):
        changes.add_column(title, justify="right")
    for change in data["changes"]:
        known = (change[f"us_{side}"] for side in sides)
        times = ("" if us is None else f"{us:.2f}" for us in known)
        cells = " + ".join(change["a"]) or "nothing", " + ".join(change["b"]) or "nothing"
        changes.add_row(*cells, str(change["times"]), change["layers"], *times)
    yield changes


def _sizes(a: Subject, b: Subject) -> dict[str, tuple[float | None, float | None]]:
    def of(subject: Subject) -> dict[str, float | None]:
        report = subject.report
        known = subject.predicted
        return {
            "dispatches": len(subject.plan.launches),
            "dispatches a layer": report["dispatches"]["per_layer"],
            "kernels": len(subject.plan.kernels),
            "critical path": report["critical_path"],
            "starting early": len(subject.early),
            "weights, bytes": report["weights_bytes"],
            "KV cache, bytes": report["states_bytes"],
            "arena, bytes": report["arena_bytes"],
            "launches predicted, us": (
                round(sum(c.total for c in known.values()), 1) if known else None
            ),
            "launches measured, us": (
                round(sum(subject.measured.values()), 1) if subject.measured else None
            ),
        }

    left, right = of(a), of(b)
    return {name: (left[name], right[name]) for name in left}


def changes(a: Subject, b: Subject) -> list[Change]:
    """Groups of dispatches that compute the same ops in both, but not one for one."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[list[Node], list[Node]]]] = {}
    for left, right in _groups(a.graph, b.graph):
        if len(left) == len(right) == 1 and _ops(left[0]) == _ops(right[0]):
            continue
        key = tuple(n.kind for n in left), tuple(n.kind for n in right)
        found.setdefault(key, []).append((left, right))
    return [
        Change(
            *groups[0],
            times=len(groups),
            layers=span([n for pair in groups for side in pair for n in side]),
            us_a=_us(a, [n for left, _ in groups for n in left]),
            us_b=_us(b, [n for _, right in groups for n in right]),
        )
        for groups in found.values()
    ]


def _groups(a: Graph, b: Graph) -> Iterator[tuple[list[Node], list[Node]]]:
    """Nodes of both that compute the same: they share ops, by the name of what an op makes."""
    graphs = {"a": a, "b": b}
    view = nx.Graph()
    for side, graph in graphs.items():
        for node in graph.nodes:
            view.add_node((side, node.name))
            for name in _ops(node):
                view.add_edge((side, node.name), ("op", name))
    for side, other in (("a", "b"), ("b", "a")):
        _adopt(view, side, graphs[side], other, graphs[other])
    for component in nx.connected_components(view):
        left, right = (
            sorted(
                (graph.producers[name] for found, name in component if found == side),
                key=lambda node, graph=graph: graph.place[node.name],  # type: ignore[misc]
            )
            for side, graph in graphs.items()
        )
        yield left, right


def _adopt(view: nx.Graph, side: str, graph: Graph, other: str, others: Graph) -> None:
    """Tie nodes that share no op with the other side, since a pass put other ops in their place.

    Such a node belongs to what makes the same value there, or else to its reader in the same layer.
    """
    makers = {v.name: n.name for n in others.nodes for op in n.ops for v in op.outputs}

    def matched(name: str) -> bool:
        found = nx.node_connected_component(view, (side, name))
        return any(kind == other for kind, _ in found)

    for node in reversed(graph.nodes):
        if matched(node.name):
            continue
        same = next((makers[v.name] for v in node.outputs if v.name in makers), None)
        readers = [u for v in node.outputs for u in graph.users.get(v.name, ())]
        near = next((u.name for u in readers if u.layer == node.layer and matched(u.name)), None)
        if same is not None:
            view.add_edge((side, node.name), (other, same))
        elif near is not None:
            view.add_edge((side, node.name), (side, near))


def _ops(node: Node) -> Counter[str]:
    return Counter(f"{n.op} {n.name}" for n in node.ops)


def _us(subject: Subject, nodes: list[Node]) -> float | None:
    """Microseconds of nodes together: measured, or else predicted."""
    if all(n.name in subject.measured for n in nodes):
        return sum(subject.measured[n.name] for n in nodes)
    if all(n.name in subject.predicted for n in nodes):
        return sum(subject.predicted[n.name].total for n in nodes)
    return None
