"""Mixture of experts on the CUDA target, by the NumPy twins: levels and widths have one result."""

from __future__ import annotations

import numpy as np
import pytest

from fusec import driver
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.ir.target import ROWS, TILES
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import ROUTINGS, experts_graph
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

TOKENS = 3


@pytest.mark.parametrize(
    ("routing", "matrix"),
    zip(ROUTINGS, ("f32", "q8_0", "q4_0", "f16", "mxfp4", "q5_1"), strict=True),
)
def test_levels_and_widths_agree_and_with_the_reference(routing: str, matrix: str) -> None:
    given = ROUTINGS[routing] | {"matrix": matrix}
    several = experts_graph(tokens=TOKENS, **given)
    weights = random_weights(several)
    x = np.random.default_rng(3).standard_normal((TOKENS, 64)).astype(np.float32)
    wanted = reference(several, weights).step(x=x)
    rows = []
    for level in (0, 3):
        found = TwinSession(several, weights, level, target=HOPPER).step(x=x)
        assert (found["ids"].view(np.int32) == wanted["ids"]).all()
        for name in ("y", "ids.weights"):
            distance = np.linalg.norm(found[name] - wanted[name])
            assert distance < 2e-6 * np.linalg.norm(wanted[name])
        rows.append(found)
        one = TwinSession(experts_graph(**given), weights, level, target=HOPPER)
        for t, row in enumerate(x):
            for name, value in one.step(x=row[None]).items():
                assert value.tobytes() == found[name][t].tobytes(), name
    for name, value in rows[0].items():
        assert value.tobytes() == rows[1][name].tobytes(), name


def test_in_steps_of_many_rows_of_floats_each_has_a_layer_of_blocks() -> None:
    """Products of chosen rows of plain floats take no tiles, as others do not."""
    given = {"matrix": "f16", "shared": True}
    graph = experts_graph(tokens=11, **given)
    session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
    kernels = {k: v for k, v in session.kernels.items() if "experts" in k}
    assert kernels and all(kernel.rows == 1 for kernel in kernels.values())
    x = np.random.default_rng(4).standard_normal((11, 64)).astype(np.float32)
    found = session.step(x=x)["y"]
    one = TwinSession(experts_graph(**given), random_weights(graph), 0, target=HOPPER)
    for row, wanted in zip(x, found, strict=True):
        assert one.step(x=row[None])["y"].tobytes() == wanted.tobytes()


def test_of_equals_the_lower_number_is_chosen() -> None:
    graph = experts_graph(**ROUTINGS["groups"])
    weights = random_weights(graph)
    weights["@router"] = np.zeros((64, 64), np.float32).view(np.uint8)
    weights["@choice"] = np.repeat(np.float32([0, 1, 0, 1, 1, 1, 0, 1]), 8)
    session = TwinSession(graph, weights, 3, target=HOPPER)
    found = session.step(x=np.ones((1, 64), np.float32))
    assert found["ids"].tolist() == [[8, 9, 10, 11, 12]]


def test_activations_hold_far_from_zero() -> None:
    b = Builder("g")
    x, up = b.input("x", (1, 8)), b.input("up", (1, 8))
    graph = b.build(b.sigmoid(x, name="s"), b.swiglu_oai(x, up, name="h"))
    given = {"x": np.float32([[-200, -80, -7.5, -1e-3, 0, 6.9, 7.1, 200]])}
    given["up"] = np.float32([[8, -9, 3, -7, 0, 7, -6.9, 1e6]])
    found = TwinSession(graph, {}, 0, target=HOPPER).step(**given)
    for name, wanted in reference(graph, {}).step(**given).items():
        assert np.allclose(found[name], wanted, rtol=4e-7, atol=1e-34), name


def test_matrices_of_experts_lie_by_rows() -> None:
    """Others of their sizes are in tiles."""
    graph = experts_graph(2048, 2048, 4, 2, matrix="q4_k", shared=True)
    placed = run_passes(graph, passes_of(0), HOPPER, stop_after="place-weights")[-1].graph
    layouts = {w.name: w.layout for w in placed.weights if len(w.shape) > 1}
    assert layouts.pop("@shared") == TILES
    assert layouts == dict.fromkeys(("@router", "@gate", "@up", "@down", "@share"), ROWS)


def test_rows_that_are_no_whole_chunks_are_refused() -> None:
    b = Builder("g")
    x, ids = b.input("x", (1, 30)), b.input("ids", (1, 2), "i32")
    graph = b.build(b.expert_matvec(x, b.weight("w", (4 * 8, 30)), ids, rows=8))
    (kernel,) = lower(graph, "cuda", 0).kernels
    with pytest.raises(FusecError, match=r"rows of whole chunks of 4 elements, found f32\[32, 30"):
        emit(kernel)


def test_a_long_row_is_in_shared_memory_that_the_launch_adds() -> None:
    """Two experts' vectors of a Mixtral take more than a kernel may declare."""
    graph = experts_graph(64, 14336, 2, 2, matrix="q4_0")
    plan = driver.compile(graph, target="sm_90a").plan
    kernel = emit(next(k for k in plan.kernels if "experts_sum" in k.name))
    assert kernel.shared == 0
    assert 48 << 10 < kernel.dynamic < ARCHS["sm_90a"].block_shared
    long = experts_graph(64, 14336, 8, 8, matrix="q4_0")
    plan = lower(run_passes(long, passes_of(0), HOPPER)[-1].graph, "cuda", 0)
    kernel = next(k for k in plan.kernels if "expert_matvec_sum" in k.name)
    with pytest.raises(FusecError, match=r"expected a block with at most .* bytes of shared memo"):
        emit(kernel)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("sizes", "given"),
    [
        ((2048, 768, 128, 8), {"matrix": "q4_k"}),
        ((2880, 2880, 32, 4), {"matrix": "mxfp4", **ROUTINGS["chosen"]}),
        ((2048, 1536, 64, 6), {"matrix": "q6_k", **ROUTINGS["groups"]}),
    ],
)
def test_real_shapes_assemble_without_spills(sizes: tuple[int, ...], given: dict) -> None:
    width, ffn, experts, used = sizes
    graph = experts_graph(width, ffn, **{**given, "experts": experts, "used": used})
    compiled = driver.compile(graph, target="sm_90a")
    kernels = [compiled.backend.emit(kernel) for kernel in compiled.plan.kernels]
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx
