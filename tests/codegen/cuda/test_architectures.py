"""Models of several architectures by the NumPy twins: every level has the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.models.decoder import decode_graph
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.models.test_architectures import config_of
from tests.targets import HOPPER

SIZES = {"layers": 1, "width": 64, "ffn_width": 96, "heads": 4, "kv_heads": 2, "head_dim": 32}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma3"])
def test_levels_agree_and_with_the_reference(architecture: str) -> None:
    config = replace(config_of(architecture), **SIZES, rope_dims=32, vocab=32)
    shapes = dict(config.tensor_shapes())
    types = {name: "f32" if len(shape) == 1 else "q8_0" for name, shape in shapes.items()}
    graph = decode_graph(config, types, 1, 16, "f32")
    weights = random_weights(graph)
    steps = [{"token": np.array([7 * k % 32]), "pos": np.array([k])} for k in range(2)]
    wanted = reference(graph, weights)
    near = np.concatenate([wanted.step(**step)["logits"] for step in steps])
    found = []
    for level in (0, 3):
        session = TwinSession(graph, weights, level, target=HOPPER)
        found.append(np.concatenate([session.step(**step)["logits"] for step in steps]))
    assert found[0].tobytes() == found[1].tobytes()
    assert np.linalg.norm(found[0] - near) < 1e-4 * np.linalg.norm(near)
