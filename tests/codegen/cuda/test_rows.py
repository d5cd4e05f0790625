"""Steps of several rows: each row has the bytes that it has in a step of its own."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.ir import Graph
from fusec.passes.pipeline import LEVELS
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.graphs import llama_graph
from tests.targets import HOPPER

SHAPE = {"width": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "layers": 1, "context": 40}


def one_by_one(graph: Graph, weights: dict, ids: list[int], level: int) -> np.ndarray:
    """[len(ids), vocabulary] logits of steps of one row."""
    session = TwinSession(graph, weights, level, target=HOPPER)
    given = [{"token": np.array([t]), "pos": np.array([p])} for p, t in enumerate(ids)]
    return np.concatenate([session.step(**inputs)["logits"] for inputs in given])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kv", "matrix"), [("f16", "iq4_nl"), ("f32", "q6_k"), ("f16", "f32")])
def test_rows_of_a_step_are_those_of_steps_of_one(level: int, kv: str, matrix: str) -> None:
    from tests.codegen.cuda.test_emit import types

    shape = {**SHAPE, "width": 256, "ffn": 256} if matrix == "q6_k" else SHAPE
    graphs = {t: llama_graph(**shape, kv=kv, types=types(matrix), tokens=t) for t in (1, 5)}
    weights = random_weights(graphs[1])
    ids = [3, 41, 7, 7, 60, 2, 9]
    wanted = one_by_one(graphs[1], weights, ids, level)
    session = TwinSession(graphs[5], weights, level, target=HOPPER)
    for first, rows in ((0, 5), (5, 2)):
        places = np.resize(np.arange(first, first + rows), 5)  # what lies behind them is not read
        session.memory["rows"][:] = rows
        found = session.step(token=np.array(ids)[places], pos=places)["logits"][:rows]
        assert found.tobytes() == wanted[first : first + rows].tobytes()
