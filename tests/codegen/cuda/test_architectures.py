"""Models of several architectures by the NumPy twins: every level has the same bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fusec import driver
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.ir import Graph
from fusec.ir.reference import Reference
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.latent import Latent
from fusec.models.presets import PRESETS
from fusec.models.quant_mix import Mix
from fusec.models.small import config_of
from tests.codegen.cuda.test_overlap import kind_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

SIZES = {"layers": 1, "width": 64, "ffn_width": 96, "heads": 4, "kv_heads": 2, "head_dim": 32}
OWN_SIZES = {
    "deepseek2": {
        **{"kv_heads": 1, "head_dim": 48, "rope_dims": 16},
        "latent": Latent(4, 32, 64, plain=32, turned=16, values=32),
    }
}

OTHER_BLOCKS = ("phi2", "stablelm", "starcoder2", "nemotron", "command-r", "cohere2")


def graph_of(architecture: str, tokens: int = 1, matrix: str = "q8_0") -> Graph:
    """A layer of an architecture, small."""
    sizes = SIZES | {"rope_dims": 32, "vocab": 32} | OWN_SIZES.get(architecture, {})
    config = replace(config_of(architecture), **sizes)
    shapes = dict(config.tensor_shapes())
    types = {name: "f32" if len(shape) == 1 else matrix for name, shape in shapes.items()}
    return decode_graph(config, types, tokens, 16, "f32")


def one_by_one(session: TwinSession | Reference, count: int) -> np.ndarray:
    """[count, vocabulary] logits."""
    steps = [{"token": np.array([7 * k % 32]), "pos": np.array([k])} for k in range(count)]
    return np.concatenate([session.step(**step)["logits"] for step in steps])


USUAL_BLOCKS = ("qwen2", "qwen3", "gemma2", "gemma3", "mistral3")
EXPERTS = ("qwen2moe", "granitemoe", "gpt-oss", "deepseek2")
APART = ("deepseek2",)
"""Whose projection of attention has heads' matrices in front of it."""


@pytest.mark.parametrize("architecture", [*USUAL_BLOCKS, *OTHER_BLOCKS, *EXPERTS])
def test_nothing_merged_and_all_agree_and_with_the_reference(architecture: str) -> None:
    graph = graph_of(architecture)
    weights = random_weights(graph)
    near = one_by_one(reference(graph, weights), 2)
    plain, deep, deepest = (
        TwinSession(graph, weights, level, target=HOPPER) for level in (0, 3, 4)
    )
    found = one_by_one(plain, 2)
    assert one_by_one(deep, 2).tobytes() == one_by_one(deepest, 2).tobytes() == found.tobytes()
    projects = any("attention_project" in name for name in deep.kernels)
    assert projects == (architecture not in APART)
    assert np.linalg.norm(found - near) < 1e-4 * np.linalg.norm(near)


@pytest.mark.parametrize(
    ("architecture", "tokens"),
    [
        ("phi2", 3),
        ("stablelm", 12),
        ("starcoder2", 12),
        ("command-r", 3),
        ("gpt-oss", 3),
        ("qwen2moe", 12),
        ("mistral3", 12),
        ("deepseek2", 3),
        ("deepseek2", 12),
    ],
)
def test_rows_of_a_step_have_the_bytes_of_their_own(architecture: str, tokens: int) -> None:
    """Of quantised matrices, that many rows take in tiles."""
    one, many = graph_of(architecture, 1, "q4_1"), graph_of(architecture, tokens, "q4_1")
    weights = random_weights(one)
    wanted = one_by_one(TwinSession(one, weights, 3, target=HOPPER), tokens)
    given = {"token": 7 * np.arange(tokens) % 32, "pos": np.arange(tokens)}
    found = TwinSession(many, weights, 3, target=HOPPER).step(**given)["logits"]
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("architecture", "launches"),
    [("llama", 4), ("nemotron", 4), ("starcoder2", 4), ("phi2", 3), ("command-r", 3)],
)
def test_launches_of_a_layer(architecture: str, launches: int) -> None:
    """Biases stay behind the sum of attention's parts; parallel blocks share the first launch."""
    config = config_of(architecture)
    sizes = {"width": 960, "ffn_width": 2560, "heads": 15, "kv_heads": 5}
    config = replace(config, **sizes, head_dim=64, rope_dims=64)
    types = {name: "f32" if len(s) == 1 else "q8_0" for name, s in config.tensor_shapes()}
    plan = driver.compile(decode_graph(config, types, 1, 64, "f16"), target="sm_90a").plan
    assert sum(launch.layer == 1 for launch in plan.launches) == launches


@cache
def of_a_real_shape(preset: str, layers: int) -> driver.Compiled:
    """The first layers of a preset in Q4_K_M, for an H100 or H200."""
    config: DecoderConfig = replace(PRESETS[preset], layers=layers)
    config = replace(config, biased=config.biased & {n[:-7] for n, _ in config.tensor_shapes()})
    mix = Mix("Q4_K_M", layers, config.heads // config.kv_heads, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    return driver.compile(decode_graph(config, types, 1, 512, "f16"), target="sm_90a")


REAL_SHAPES = {  # preset: layers, launches of the second
    "llama3.2-1b": (2, 5),
    "qwen2.5-0.5b": (2, 4),
    "qwen3-0.6b": (2, 5),
    "gemma3-270m": (6, 4),
    "stablelm2-1.6b": (2, 5),
    "phi-2": (2, 4),
    "qwen3-30b-a3b-4-layers": (2, 7),
    "gpt-oss-20b-4-layers": (2, 7),
}


@pytest.mark.parametrize("preset", REAL_SHAPES)
def test_launches_of_a_layer_of_a_real_shape(preset: str) -> None:
    layers, launches = REAL_SHAPES[preset]
    plan = of_a_real_shape(preset, layers).plan
    assert sum(launch.layer == 1 for launch in plan.launches) == launches


@pytest.mark.cuda
def test_real_shapes_assemble_without_spills() -> None:
    """Of launches that do the same ops, the kernel with most lines: it keeps most in registers.

    All formats of matrices are in test_formats.py.
    """
    longest: dict[str, CudaKernel] = {}
    for preset, (layers, _) in REAL_SHAPES.items():
        compiled = of_a_real_shape(preset, layers)
        for launch in compiled.plan.launches:
            kind = kind_of(compiled.graph.producers[launch.node])
            found = compiled.kernels[launch.kernel]
            longest[kind] = max(found, longest.get(kind, found), key=lambda k: len(k.source))
    assert len(longest) >= 30
    for cubin in compile_many(list(longest.values()), "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name


@pytest.mark.cuda
def test_latent_attention_of_a_real_shape_assembles_without_spills() -> None:
    """That of DeepSeek V2 Lite, beside a dense feed-forward."""
    latent = Latent(16, 512, 0, plain=128, turned=64, values=128)
    sizes = {"width": 2048, "ffn_width": 2048, "heads": 16, "head_dim": 192, "rope_dims": 64}
    sizes |= {"layers": 2, "temperature": None, "experts": None}
    config = replace(config_of("deepseek2"), latent=latent, **sizes)
    mix = Mix("Q4_K_M", config.layers, 1, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    compiled = driver.compile(decode_graph(config, types, 1, 512, "f16"), target="sm_90a")
    assert sum(launch.layer == 1 for launch in compiled.plan.launches) == 8
    kernels = [compiled.backend.emit(kernel) for kernel in compiled.plan.kernels]
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
