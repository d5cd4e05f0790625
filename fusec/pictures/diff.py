"""Two plans compared: their sizes, and which dispatches of one became which of the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import networkx as nx
from rich.table import Table

from fusec.ir.graph import Graph, Node
from fusec.pictures.subject import Subject
from fusec.report import make_table


def compare(a: Subject, b: Subject) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "a": _title(a),
        "b": _title(b),
        "sizes": _sizes(a, b),
        "changes": list(_changes(a, b)),
        "kernels": {
            "only a": sorted(set(a.sources) - set(b.sources)),
            "only b": sorted(set(b.sources) - set(a.sources)),
        },
    }


def tables(data: dict[str, Any]) -> Iterator[Table]:
    """Sizes, then what became of what."""
    sizes = make_table(f"a: {data['a']}\nb: {data['b']}")
    sizes.add_column("")
    for title in ("a", "b", "b - a"):
        sizes.add_column(title, justify="right")
    for name, (left, right) in data["sizes"].items():
        change = f"{right - left:+,.10g}" if None not in (left, right) else ""
        sizes.add_row(name, *("" if x is None else f"{x:,.10g}" for x in (left, right)), change)
    yield sizes
    changes = make_table("dispatches that differ")
    for title in ("a", "b"):
        changes.add_column(title, overflow="fold")
    for title in ("times", "layers", "us a", "us b"):
        changes.add_column(title, justify="right")
    for change in data["changes"]:
        times = ("" if us is None else f"{us:.2f}" for us in (change["us_a"], change["us_b"]))
        cells = " + ".join(change["a"]) or "nothing", " + ".join(change["b"]) or "nothing"
        changes.add_row(*cells, str(change["times"]), change["layers"], *times)
    yield changes


def _title(subject: Subject) -> str:
    return f"{subject.model} at -O{subject.plan.level} for {subject.plan.target}"


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


def _changes(a: Subject, b: Subject) -> Iterator[dict[str, Any]]:
    """Groups of dispatches that compute the same ops in both, but not one for one."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[list[Node], list[Node]]]] = {}
    for left, right in _groups(a.graph, b.graph):
        if len(left) == len(right) == 1 and _ops(left[0]) == _ops(right[0]):
            continue
        key = tuple(n.kind for n in left), tuple(n.kind for n in right)
        found.setdefault(key, []).append((left, right))
    for (kinds_a, kinds_b), groups in found.items():
        nodes = [n for pair in groups for side in pair for n in side]
        yield {
            "a": list(kinds_a),
            "b": list(kinds_b),
            "times": len(groups),
            "layers": _span(nodes),
            "us_a": _us(a, [n for left, _ in groups for n in left]),
            "us_b": _us(b, [n for _, right in groups for n in right]),
        }


def _groups(a: Graph, b: Graph) -> Iterator[tuple[list[Node], list[Node]]]:
    """Nodes of both that share plain ops, by the name of what an op makes."""
    view = nx.Graph()
    for side, graph in (("a", a), ("b", b)):
        for node in graph.nodes:
            view.add_node((side, node.name))
            for name in _ops(node):
                view.add_edge((side, node.name), ("op", name))
    place = {(side, n.name): (i, n) for side, graph in (("a", a), ("b", b))
             for i, n in enumerate(graph.nodes)}  # fmt: skip
    for component in nx.connected_components(view):
        sides: dict[str, list[tuple[int, Node]]] = {"a": [], "b": [], "op": []}
        for vertex in component:
            if vertex in place:
                sides[vertex[0]].append(place[vertex])
        left, right = (
            [n for _, n in sorted(sides[side], key=lambda found: found[0])] for side in "ab"
        )
        yield left, right


def _ops(node: Node) -> Counter[str]:
    return Counter(f"{n.op} {n.name}" for n in node.ops)


def _span(nodes: list[Node]) -> str:
    """Layers as `0-29`, or nothing for what is outside of layers."""
    layers = sorted({n.layer for n in nodes if n.layer is not None})
    if not layers:
        return ""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])


def _us(subject: Subject, nodes: list[Node]) -> float | None:
    """Microseconds of nodes together: measured, or else predicted."""
    if all(n.name in subject.measured for n in nodes):
        return sum(subject.measured[n.name] for n in nodes)
    if all(n.name in subject.predicted for n in nodes):
        return sum(subject.predicted[n.name].total for n in nodes)
    return None
