"""Blocks of other models than llama, run by the twins: one kernel for many ops has their bytes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.cuda.one_kernel import distance
from tests.codegen.cuda.test_attention import cache_for, put
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import BLOCKS, block_graph
from tests.targets import HOPPER


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_give_the_same_bytes_at_every_level(name: str) -> None:
    graph = block_graph(layers=1, heads=2, kv_heads=1, head_dim=32, kv="f32", **BLOCKS[name])
    weights, caches = random_weights(graph), cache_for(graph, 21)
    given = {"token": np.array([5]), "pos": np.array([21])}
    found = []
    for level in (0, 2, 3):
        session = TwinSession(graph, weights, level, target=HOPPER)
        put(session, caches)
        found.append(session.step(**given))
    checked = reference(graph, weights)
    checked.states |= {k: v.astype(np.float64) for k, v in caches.items()}
    wanted = checked.step(**given)
    for one in found:
        assert one["logits"].tobytes() == found[0]["logits"].tobytes()
        assert distance(one["logits"], wanted["logits"]) < 1e-5
        assert one["next"] == wanted["next"]
