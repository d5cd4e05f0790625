"""A decode graph by the twins at a level, beside one kernel an op."""

from __future__ import annotations

import numpy as np

from fusec.ir import Graph
from tests.codegen.cuda.test_attention import cache_for, put
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.targets import HOPPER


def check_level(graph: Graph, position: int, level: int) -> TwinSession:
    """A token there gives the logits of -O0 and appends the same rows; the session of the level."""
    weights, caches = random_weights(graph), cache_for(graph, position)
    found = []
    for each in (0, level):
        session = TwinSession(graph, weights, each, target=HOPPER)
        put(session, caches)
        logits = session.step(token=np.array([5]), pos=np.array([position]))["logits"]
        states = [session.memory[v.name].tobytes() for v in graph.states]
        found.append((logits, states))
    assert np.isfinite(found[0][0]).all()
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert found[0][1] == found[1][1], "the rows that were appended"
    return session
