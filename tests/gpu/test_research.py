"""What a researcher's script does with the library, on the GPU: an op of its own, an ablation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusec
from tests.own_ops import WIDTH, gated, register_softsign

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_ops_table")]


def trigonometric(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * x) + np.cos(x) * np.log(1 + x * x) + np.tan(0.25 * np.tanh(x))


@pytest.mark.parametrize("name", ["softsign", "trigonometric"])
def test_a_registered_op_gives_what_it_means(name: str) -> None:
    register_softsign()
    fusec.register_op(
        "trigonometric", "sin(3 * x) + cos(x) * log(1 + x * x) + tan(0.25 * tanh(x))", trigonometric
    )
    graph, random = gated(name), np.random.default_rng(0)
    weights = {
        w.name[1:]: random.standard_normal(w.shape).astype(np.float32) for w in graph.weights
    }
    given = random.standard_normal((1, WIDTH)).astype(np.float32)
    wanted = fusec.Reference(graph, weights).step(x=given)["y"]
    found = []
    for level in (0, 3):
        with fusec.compile(graph, target="native", level=level).session(weights) as session:
            found.append(session.step(x=given)["y"])
    assert found[0].tobytes() == found[1].tobytes()
    assert np.linalg.norm(found[0] - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_no_merge_changes_a_byte(tiny_model: Path) -> None:
    rows = fusec.ablate(tiny_model, "native", context=64, only=["rules"], tokens=8, repeats=1)
    assert all(row.measured and row.same for row in rows)
    assert any(row.changed for row in rows)
