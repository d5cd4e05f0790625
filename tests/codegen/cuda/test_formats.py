"""Weight formats in CUDA kernels: matvecs of every format, and what ptxas makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen import formats
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.ir import Builder, Graph
from fusec.models.decoder_graph import decode_graph
from fusec.models.synth import PRESETS
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import graph_of_every_format
from tests.targets import TILED

pytestmark = pytest.mark.slow  # compiles many kernels

NAMES = sorted(formats.FORMATS)


def matvec(name: str, rows: int, columns: int) -> Graph:
    b = Builder("matvec")
    return b.build(b.matvec(b.input("x", (1, columns)), b.weight("w", (rows, columns), name)))


def kernel_of(graph: Graph) -> CudaKernel:
    (kernel,) = lower(run_passes(graph, passes_of(0), TILED)[-1].graph, "sm_90a", 0).kernels
    return emit(kernel)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [256, 1536])
def test_a_matvec_is_exact_but_for_its_activations(name: str, columns: int) -> None:
    graph = matvec(name, 9, columns)
    weights = random_weights(graph)
    x = np.random.default_rng(0).normal(size=(1, columns)).astype(np.float32)
    got = TwinSession(graph, weights, 0).step(x=x)["0"]
    wanted = reference(graph, weights).step(x=x)["0"]
    assert np.linalg.norm(got - wanted) < 5e-7 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "q4_0", "q2_k", "iq1_m", "tq1_0", "iq3_s"])
def test_every_code_of_a_span_keeps_its_place(name: str) -> None:
    """A vector with a single one picks a column: the weights come back as the file has them."""
    fmt = formats.get(name)
    graph = matvec(name, 3, 256)
    weights = random_weights(graph, seed=5)
    session = TwinSession(graph, weights, 0)
    decoded = fmt.decode(weights["@w"])
    for column in range(0, 256, 7):
        x = np.zeros((1, 256), np.float32)
        x[0, column] = 1
        np.testing.assert_allclose(session.step(x=x)["0"][0], decoded[:, column], rtol=1e-6)


def test_all_formats_in_one_model_agree_at_every_level() -> None:
    graph = graph_of_every_format()
    weights = random_weights(graph)
    given = {"token": np.array([1]), "pos": np.array([0])}
    one, other = (TwinSession(graph, weights, level).step(**given)["logits"] for level in (0, 2))
    assert one.tobytes() == other.tobytes()
    wanted = reference(graph, weights).step(**given)["logits"]
    assert np.linalg.norm(one - wanted) < 5e-6 * np.linalg.norm(wanted)


def test_a_factor_of_a_whole_matrix_is_applied_where_rows_end() -> None:
    b = Builder("scaled")
    x = b.input("x", (1, 64))
    y = b.matvec(x, b.weight("w", (40, 64), "nvfp4"), b.weight("s", (1,)))
    graph = b.build(b.add(y, b.weight("r", (40,))))
    weights = random_weights(graph)
    weights["@s"] = np.array([0.125], np.float32)
    x_values = np.random.default_rng(3).normal(size=(1, 64)).astype(np.float32)
    wanted = reference(graph, weights).step(x=x_values)
    for level in (0, 2):
        got = TwinSession(graph, weights, level).step(x=x_values)
        np.testing.assert_allclose(got["1"], wanted["1"], rtol=1e-6, atol=3e-6)


def test_a_model_with_factors_is_the_same_at_every_level() -> None:
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    config = replace(
        PRESETS["tiny"], layers=1, width=64, ffn_width=64, heads=4, kv_heads=2, head_dim=16,
        rope_dims=16, vocab=40, scaled=frozenset(f"blk.0.{kind}" for kind in kinds),
    )  # fmt: skip
    types = {n: "nvfp4" if len(s) > 1 else "f32" for n, s in config.tensor_shapes()}
    graph = decode_graph(config, types, 1, 32, "f32")
    assert sum(len(node.inputs) == 3 for node in graph.nodes if node.op == "matvec") == 7
    weights = random_weights(graph)
    for k, name in enumerate(name for name in weights if name.endswith(".scale")):
        weights[name] = np.array([0.03 + 0.01 * k], np.float32)
    checked = reference(graph, weights)
    given = {"token": np.array([3]), "pos": np.array([0])}
    wanted = checked.step(**given)["logits"]
    found = [TwinSession(graph, weights, level).step(**given)["logits"] for level in (0, 1, 2, 3)]
    assert np.linalg.norm(found[0] - wanted) < 2e-6 * np.linalg.norm(wanted)
    assert len({logits.tobytes() for logits in found}) == 1


@pytest.mark.cuda
@pytest.mark.slow
def test_matvecs_of_every_format_assemble_without_spills() -> None:
    kernels = [kernel_of(matvec(name, 2048, 8192)) for name in NAMES]
    kernels += [kernel_of(matvec(name, 3072, 768)) for name in ("f16", "q8_0", "q6_k", "iq3_s")]
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
        # four chunks of a row are on their way; 128 fit one block of 512 threads a processor
        assert cubin.registers <= 112, cubin.name
