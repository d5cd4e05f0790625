"""Layered drawing: boxes stay apart, edges go down, a chain is straight."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusec.pictures.layout import BESIDE, BETWEEN, layout


@st.composite
def drawings(draw):
    """Sizes of up to 14 boxes, and edges from lower to higher numbers."""
    count = draw(st.integers(1, 14))
    side = st.floats(10, 300)
    sizes = {i: (draw(side), draw(side)) for i in range(count)}
    pairs = list(combinations(range(count), 2))
    return sizes, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@settings(max_examples=60, deadline=None)
@given(drawings())
def test_boxes_stay_apart_and_edges_go_down(drawing):
    sizes, edges = drawing
    placed = layout(sizes, edges)
    assert set(placed.centres) == set(sizes)
    for a, b in combinations(sizes, 2):
        (xa, ya), (xb, yb) = placed.centres[a], placed.centres[b]
        beside = abs(xa - xb) >= (sizes[a][0] + sizes[b][0]) / 2 + BESIDE - 1e-6
        above = abs(ya - yb) >= (sizes[a][1] + sizes[b][1]) / 2 + BETWEEN - 1e-6
        assert beside or above
    for v, (x, y) in placed.centres.items():
        assert sizes[v][0] / 2 - 1e-6 <= x <= placed.width - sizes[v][0] / 2 + 1e-6
        assert sizes[v][1] / 2 - 1e-6 <= y <= placed.height - sizes[v][1] / 2 + 1e-6
    for (source, target), points in placed.routes.items():
        assert points[0][1] == pytest.approx(placed.centres[source][1] + sizes[source][1] / 2)
        assert points[-1][1] == pytest.approx(placed.centres[target][1] - sizes[target][1] / 2)
        assert all(a[1] <= b[1] for a, b in pairwise(points))
        for v, (x, y) in placed.centres.items():  # where it passes a box, it passes beside it
            for px, py in points[1:-1]:
                inside = abs(px - x) < sizes[v][0] / 2 and abs(py - y) < sizes[v][1] / 2
                assert not inside


def test_a_chain_is_straight():
    sizes = {"a": (40.0, 20.0), "b": (200.0, 30.0), "c": (60.0, 20.0)}
    placed = layout(sizes, [("a", "b"), ("b", "c")])
    assert len({x for x, _ in placed.centres.values()}) == 1
    assert placed.height == 20 + 30 + 20 + 2 * BETWEEN
    assert placed.width == 200


def test_siblings_keep_the_order_that_crosses_nothing():
    sizes = dict.fromkeys(("l", "r", "ll", "rr"), (50.0, 20.0))
    placed = layout(sizes, [("l", "rr"), ("r", "ll")])
    order = placed.centres["rr"][0] - placed.centres["ll"][0]
    assert order * (placed.centres["l"][0] - placed.centres["r"][0]) > 0


def test_edges_of_a_box_leave_it_side_by_side():
    sizes = dict.fromkeys("abc", (100.0, 20.0))
    placed = layout(sizes, [("a", "b"), ("a", "c")])
    left, right = placed.routes["a", "b"][0][0], placed.routes["a", "c"][0][0]
    assert left != right
    assert (left < right) == (placed.centres["b"][0] < placed.centres["c"][0])


def test_nothing_to_draw():
    placed = layout({}, [])
    assert (placed.width, placed.height) == (0.0, 0.0)
