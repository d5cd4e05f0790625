"""Layered drawing of a small directed graph, top to bottom (Sugiyama, Tagawa & Toda 1981).

Ranks by longest path; edges that skip ranks get a place on each; neighbours' means sort the ranks
and then place them. Deterministic: ties keep the order in which vertices and edges were given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

SWEEPS = 8
BESIDE, BETWEEN = 28.0, 34.0  # pixels between boxes of a rank, and between ranks
LANE = 14.0  # width that an edge passing a rank takes

Vertex = Any
"""Whatever can be a key."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Centre of every vertex, points of every edge from border to border, and the whole's size."""

    centres: dict[Vertex, Point]
    routes: dict[tuple[Vertex, Vertex], list[Point]]
    width: float
    height: float


def layout(
    sizes: Mapping[Vertex, tuple[float, float]], edges: Sequence[tuple[Vertex, Vertex]]
) -> Layout:
    """Place boxes of the given sizes; the edges must make no cycle."""
    ranks, chains, links = _ranked(sizes, edges)
    widths = {v: sizes[v][0] if v in sizes else LANE for rank in ranks for v in rank}
    _order(ranks, links)
    xs = _place(ranks, links, widths)
    left = min(xs[v] - widths[v] / 2 for v in xs) if xs else 0.0
    centres: dict[Vertex, Point] = {}
    lanes: dict[Vertex, list[Point]] = {}
    top = 0.0
    for rank in ranks:
        height = max((sizes[v][1] for v in rank if v in sizes), default=0.0)
        for v in rank:
            x = xs[v] - left
            centres[v] = x, top + (sizes[v][1] if v in sizes else height) / 2
            lanes[v] = [(x, top), (x, top + height)]  # straight beside the boxes of its rank
        top += height + BETWEEN
    right = max((centres[v][0] + widths[v] / 2 for v in centres), default=0.0)
    routes = _routes(sizes, chains, centres, lanes)
    return Layout({v: centres[v] for v in sizes}, routes, right, max(0.0, top - BETWEEN))


def _ranked(
    sizes: Mapping[Vertex, tuple[float, float]], edges: Sequence[tuple[Vertex, Vertex]]
) -> tuple[list[list[Vertex]], dict[tuple[Vertex, Vertex], list[Vertex]], nx.DiGraph]:
    """Ranks; edge -> the vertices it passes, lanes included; and the graph over all of them."""
    view = nx.DiGraph()
    view.add_nodes_from(sizes)
    view.add_edges_from(edges)
    rank: dict[Vertex, int] = {}
    for v in nx.topological_sort(view):
        rank[v] = max((rank[u] + 1 for u in view.predecessors(v)), default=0)
    ranks: list[list[Vertex]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for v in sizes:
        ranks[rank[v]].append(v)
    links, chains = nx.DiGraph(), {}
    links.add_nodes_from(sizes)
    for edge in dict.fromkeys(edges):
        source, target = edge
        lanes = [("lane", edge, r) for r in range(rank[source] + 1, rank[target])]
        for lane in lanes:
            ranks[lane[2]].append(lane)
        chain = [source, *lanes, target]
        nx.add_path(links, chain)
        chains[edge] = chain
    return ranks, chains, links


def _order(ranks: list[list[Vertex]], links: nx.DiGraph) -> None:
    """Sort each rank by the mean place of its neighbours above, then below, and again."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for rank in ranks if down else ranks[::-1]:
            place = {v: i for r in ranks for i, v in enumerate(r)}
            near = links.predecessors if down else links.successors
            key = {v: _mean([place[u] for u in near(v)], place[v]) for v in rank}
            rank.sort(key=key.__getitem__)


def _place(
    ranks: list[list[Vertex]], links: nx.DiGraph, widths: Mapping[Vertex, float]
) -> dict[Vertex, float]:
    """x of each vertex: as near to its neighbours' mean as the order in its rank lets it."""
    xs: dict[Vertex, float] = {}
    for rank in ranks:
        at = 0.0
        for v in rank:
            xs[v] = at + widths[v] / 2
            at += widths[v] + BESIDE
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for rank in ranks if down else ranks[::-1]:
            near = links.predecessors if down else links.successors
            wanted = [_mean([xs[u] for u in near(v)], xs[v]) for v in rank]
            xs |= dict(zip(rank, _apart(wanted, [widths[v] for v in rank]), strict=True))
    return xs


def _apart(wanted: list[float], widths: list[float]) -> list[float]:
    """Places in this order without overlap, with the least sum of squared moves.

    Taking the widths before each out of its place leaves a monotone regression: pool neighbours
    that are the wrong way round (Ayer et al. 1955).
    """
    offsets, at = [], 0.0
    for i, width in enumerate(widths):
        at += (widths[i - 1] + width) / 2 + BESIDE if i else 0.0
        offsets.append(at)
    pools: list[tuple[float, int]] = []  # mean, members
    for place, offset in zip(wanted, offsets, strict=True):
        mean, count = place - offset, 1
        while pools and pools[-1][0] > mean:
            other, members = pools.pop()
            mean = (mean * count + other * members) / (count + members)
            count += members
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]


def _routes(
    sizes: Mapping[Vertex, tuple[float, float]],
    chains: Mapping[tuple[Vertex, Vertex], list[Vertex]],
    centres: Mapping[Vertex, Point],
    lanes: Mapping[Vertex, list[Point]],
) -> dict[tuple[Vertex, Vertex], list[Point]]:
    """Points of each edge; edges that share a box leave and enter it side by side."""
    leaving: dict[Vertex, list[tuple[Vertex, Vertex]]] = {}
    entering: dict[Vertex, list[tuple[Vertex, Vertex]]] = {}
    for edge in chains:
        leaving.setdefault(edge[0], []).append(edge)
        entering.setdefault(edge[1], []).append(edge)
    ends: dict[tuple[tuple[Vertex, Vertex], int], float] = {}
    for which, shared, near in ((0, leaving, 1), (1, entering, -2)):
        for vertex, mine in shared.items():
            mine.sort(key=lambda edge: centres[chains[edge][near]][0])
            step = min(26.0, sizes[vertex][0] / (len(mine) + 1))
            for i, edge in enumerate(mine):
                ends[edge, which] = centres[vertex][0] + (i - (len(mine) - 1) / 2) * step
    found = {}
    for edge, chain in chains.items():
        (source, target), half = edge, [sizes[v][1] / 2 for v in edge]
        inner = [point for v in chain[1:-1] for point in lanes[v]]
        start = (ends[edge, 0], centres[source][1] + half[0])
        end = (ends[edge, 1], centres[target][1] - half[1])
        found[edge] = [start, *inner, end]
    return found


def _mean(values: list[float] | list[int], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
