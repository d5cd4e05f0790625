"""Mixture of experts on the CPU: every routing, and each row of a step has experts of its own."""

from __future__ import annotations

import numpy as np
import pytest

import fusec
from fusec import Reference
from fusec.codegen.cpu.experts import softplus
from fusec.ir import Graph
from tests.graphs import ROUTINGS, experts_graph

pytestmark = pytest.mark.slow  # compiles many kernels

TOKENS = 5


def weights_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {w.name[1:]: w.shape for w in graph.weights}
    return {k: (rng.standard_normal(s) / 4).astype(np.float32) for k, s in shapes.items()}


def run(graph: Graph, x: np.ndarray, level: int) -> dict[str, np.ndarray]:
    with fusec.compile(graph, level=level).session(weights_of(graph)) as session:
        return session.step(x=x)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_routing_agrees_with_the_reference(routing: str) -> None:
    given = ROUTINGS[routing]
    graph = experts_graph(tokens=TOKENS, **given)
    x = np.random.default_rng(2).standard_normal((TOKENS, 64)).astype(np.float32)
    wanted = Reference(graph, weights_of(graph)).step(x=x)
    found = run(graph, x, 0)
    assert (found["ids"] == wanted["ids"]).all()
    assert len({tuple(row) for row in found["ids"]}) > 1
    for name in ("y", "ids.weights"):
        assert np.abs(found[name] - wanted[name]).max() < 2e-6
    fused = run(graph, x, 3)
    alone = [run(experts_graph(**given), row[None], 3) for row in x]
    for name, value in found.items():
        assert value.tobytes() == fused[name].tobytes()
        assert value.tobytes() == b"".join(one[name].tobytes() for one in alone)


def test_of_equals_the_lower_number_is_chosen() -> None:
    graph = experts_graph(**ROUTINGS["groups"])
    weights = weights_of(graph) | {"router": np.zeros((64, 64), np.float32)}
    weights["choice"] = np.repeat(np.float32([0, 1, 0, 1, 1, 1, 0, 1]), 8)
    with fusec.compile(graph).session(weights) as session:
        found = session.step(x=np.ones((1, 64), np.float32))
    assert found["ids"].tolist() == [[8, 9, 10, 11, 12]]


def test_softplus_is_exact_far_from_zero() -> None:
    x = np.float32([-80, -20, -1, -1e-3, 0, 1e-3, 1, 20, 80])
    wanted = np.logaddexp(0, x.astype(np.float64))
    assert np.allclose([softplus(v) for v in x], wanted, rtol=3e-7, atol=0)
