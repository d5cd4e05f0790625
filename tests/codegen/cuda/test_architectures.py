"""Models of several architectures by the NumPy twins: every level has the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec import driver
from fusec.codegen.cuda.build import compile_many
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.presets import PRESETS
from fusec.models.quant_mix import Mix
from fusec.models.small import config_of
from tests.codegen.cuda.kernels import needs_compiler
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.targets import HOPPER

SIZES = {"layers": 1, "width": 64, "ffn_width": 96, "heads": 4, "kv_heads": 2, "head_dim": 32}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma2", "gemma3"])
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
    assert any("attention_project" in name for name in session.kernels)
    assert found[0].tobytes() == found[1].tobytes()
    assert np.linalg.norm(found[0] - near) < 1e-4 * np.linalg.norm(near)


def of_a_real_shape(preset: str, layers: int) -> driver.Compiled:
    """The first layers of a preset in Q4_K_M, for an H100 or H200."""
    config: DecoderConfig = replace(PRESETS[preset], layers=layers)
    config = replace(config, biased=config.biased & {n[:-7] for n, _ in config.tensor_shapes()})
    mix = Mix("Q4_K_M", layers, config.heads // config.kv_heads, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    return driver.compile(decode_graph(config, types, 1, 512, "f16"), target="sm_90a")


@needs_compiler
@pytest.mark.parametrize(
    ("preset", "layers", "launches"),
    [("llama3.2-1b", 2, 5), ("qwen2.5-0.5b", 2, 4), ("qwen3-0.6b", 2, 6), ("gemma3-270m", 6, 4)],
)
def test_real_shapes_assemble_without_spills(preset: str, layers: int, launches: int) -> None:
    compiled = of_a_real_shape(preset, layers)
    assert sum(launch.layer == 1 for launch in compiled.plan.launches) == launches
    kernels = [compiled.backend.emit(kernel) for kernel in compiled.plan.kernels]
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
