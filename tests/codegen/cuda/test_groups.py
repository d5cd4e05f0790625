"""Rows of a step that chose the same expert, multiplied together: they have single rows' bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fusec import driver
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.tilings import MEDIUM, NARROW, OF_ROWS, SLIM, WIDE, grouped_rows
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.op_fixed import WIDTHS
from fusec.ir.op_groups import group, is_grouped
from fusec.ir.plan import layers
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import ROUTINGS, experts_graph
from tests.targets import HOPPER

FEW = {"experts": 4, "used": 2}
SHARED = {"matrix": "q4_0", "shared": True, **FEW}


def stages(graph: Graph, level: int = 3) -> Graph:
    return run_passes(graph, passes_of(level), HOPPER)[-1].graph


def rows_alone(graph: Graph, weights: dict[str, Any], x: np.ndarray) -> list[dict[str, Any]]:
    one = TwinSession(graph, weights, 3, target=HOPPER)
    return [one.step(x=row[None]) for row in x]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "given"),
    [
        (16, {"matrix": "q5_1", **FEW}),  # minima
        (64, {"matrix": "nvfp4", "ffn": 64, **FEW}),  # scales of half a block
        (16, {"matrix": "mxfp4", **ROUTINGS["chosen"]}),  # biases
        (9, {**ROUTINGS["groups"], "matrix": "iq4_nl"}),  # most of 64 experts have no row
        (12, {**SHARED, "used": 1}),
    ],
)
def test_rows_have_the_bytes_of_single_rows(tokens: int, given: dict[str, Any]) -> None:
    several = experts_graph(tokens=tokens, **given)
    weights = random_weights(several)
    width = several.inputs[0].shape[1]
    x = np.random.default_rng(3).standard_normal((tokens, width)).astype(np.float32)
    session = TwinSession(several, weights, 3, target=HOPPER)
    assert sum(kernel.spare > 0 for kernel in session.kernels.values()) == 2
    session.memory["rows"][:] = there_are = tokens - 1  # the last row is not there
    found, wanted = session.step(x=x), reference(several, weights).step(x=x)
    distance = np.linalg.norm(found["y"][:there_are] - wanted["y"][:there_are])
    assert distance < 2e-6 * np.linalg.norm(wanted["y"])
    asked = [0, tokens // 2, there_are - 1]
    for t, row in zip(asked, rows_alone(experts_graph(**given), weights, x[asked]), strict=True):
        for name, value in row.items():
            assert value.tobytes() == found[name][t].tobytes(), (t, name)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["ties", "one for all"])
def test_any_choice_of_experts(choice: str) -> None:
    """All rows choose the same two: of equals the first, or the last, which leaves others none."""
    tokens = 40
    several = experts_graph(tokens=tokens, matrix="q4_0", choice_bias=True, **FEW)
    weights = random_weights(several)
    weights["@router"] = np.zeros((4, 64), np.float32).view(np.uint8)
    weights["@choice"] = np.float32([0, 0, 0, 0] if choice == "ties" else [0, 0, 1, 2])
    x = np.random.default_rng(5).standard_normal((tokens, 64)).astype(np.float32)
    found = TwinSession(several, weights, 3, target=HOPPER).step(x=x)
    assert found["ids"].view(np.int32)[0].tolist() == ([0, 1] if choice == "ties" else [3, 2])
    graph = experts_graph(matrix="q4_0", choice_bias=True, **FEW)
    for t, row in enumerate(rows_alone(graph, weights, x[:3])):
        assert row["y"].tobytes() == found["y"][t].tobytes()


@pytest.mark.parametrize(("tokens", "used", "experts"), [(16, 2, 40), (129, 3, 5), (9, 1, 1)])
def test_pairs_are_sorted_as_the_reference_does(tokens: int, used: int, experts: int) -> None:
    b = Builder("g")
    ids = b.input("ids", (tokens, used), "i32")
    graph = b.build(*b.group(ids, experts=experts, name="order"))
    chosen = np.random.default_rng(1).integers(0, experts, (tokens, used)).astype(np.int32)
    found = TwinSession(graph, {}, 0, target=HOPPER).step(ids=chosen)
    order, starts = group(chosen, experts=experts)
    assert (found["order"] == order).all() and (found["order.starts"] == starts).all()


@pytest.mark.parametrize("width", [SLIM, NARROW, WIDE])
def test_a_tile_finds_its_expert(width: int) -> None:
    """However pairs are spread over experts, every place is in one tile, of its own expert."""
    rng = np.random.default_rng(width)
    experts, used, tokens = 37, 4, 24
    for odds in (0.02, 0.5, 100.0):
        shares = rng.dirichlet(np.full(experts, odds))
        ids = rng.choice(experts, size=(tokens, used), p=shares)
        _, starts = group(ids, experts=experts)
        begins = starts[0, :-1] // width + np.arange(experts)
        seen: list[int] = []
        for tile in range(layers(tokens, width // used, experts)):
            expert = np.count_nonzero(begins <= tile) - 1
            first = starts[0, expert] + (tile - begins[expert]) * width
            seen += range(first, min(first + width, starts[0, expert + 1]))
        assert sorted(seen) == list(range(tokens * used)), odds


def test_a_launch_has_room_for_all_tiles() -> None:
    """One layer sorts all rows; products have some more for tiles that are not full."""
    plan = driver.compile(experts_graph(tokens=24, **SHARED), target="sm_90a").plan
    found = {launch.kernel: launch.size for launch in plan.launches}
    sizes = {k.split("_")[0]: size.layers for k, size in found.items() if size and "group" in k}
    assert sizes == {"group": 1, "grouped": layers(24, WIDE // 2, 4)}


def test_shapes_that_may_be_measured() -> None:
    """A tile has room for a row's experts; what sorts rows has one shape."""
    graph = experts_graph(tokens=24, matrix="q4_0", experts=16, used=10)
    kernels = driver.compile(graph, target="sm_90a").plan.kernels
    found = {k.name.split("_")[0]: candidates(k, width=24) for k in kernels if "group" in k.name}
    assert len(found["group"]) == 1 and len(found["grouped"]) > 2
    assert {choice.width for choice in found["grouped"]} == {NARROW, MEDIUM, WIDE}
    grouped = next(k for k in kernels if "grouped" in k.name)
    with pytest.raises(FusecError, match="expected tiles of at least the 10 experts of a row"):
        emit(replace(grouped, choice=OF_ROWS[SLIM][0]))


def test_wider_tiles_for_experts_with_more_rows() -> None:
    product = next(n for n in stages(experts_graph(tokens=16, **SHARED), 0).nodes if is_grouped(n))
    assert [grouped_rows(product, t) for t in (2, 16, 64)] == [SLIM, NARROW, WIDE]


# --- what the pass leaves alone ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"matrix": "f16"}, "@gate is of plain floats, f16"), ({"tokens": 8, **SHARED}, "")],
)
def test_products_that_stay_as_they_are(given: dict[str, Any], reason: str) -> None:
    graph = experts_graph(**{"tokens": 16, **given})
    found = run_passes(graph, passes_of(0), HOPPER, stop_after="group-experts")[-1]
    assert found.hits == 0 and [n.op for n in found.graph.nodes] == [n.op for n in graph.nodes]
    assert [r.reason for r in found.refused][:1] == ([reason] if reason else [])


def test_a_name_that_is_taken() -> None:
    graph = experts_graph(tokens=16, **SHARED)
    ids = next(v for n in graph.nodes for v in n.inputs if v.name == "%ids")
    b = Builder("g")
    x, chosen = b.input("x", (16, 64)), b.input("ids", ids.shape, "i32")
    other = b.scale(x, factor=1.0, name="ids.order")
    y = b.expert_matvec(x, b.weight("w", (4 * 32, 64), "q4_0"), chosen, rows=32)
    found = run_passes(b.build(y, other), passes_of(0), HOPPER, stop_after="group-experts")[-1]
    assert [r.reason for r in found.refused] == ["a name is taken: %ids.order"]


def test_products_of_all_rows_have_a_kernel_of_their_own() -> None:
    """A shared expert reads the same vector, but its tiles are of rows of the step."""
    graph = stages(experts_graph(tokens=16, **SHARED))
    kinds = [{n.op for n in node.ops if n.inputs[0].dtype in WIDTHS} for node in graph.nodes]
    assert all(len(kind) < 2 for kind in kinds)
    refused = [
        r.reason
        for stage in run_passes(experts_graph(tokens=16, **SHARED), passes_of(3), HOPPER)
        for r in stage.refused
    ]
    assert any("are not grouped alike" in reason for reason in refused)


def test_the_meaning_is_kept() -> None:
    graph = experts_graph(tokens=16, matrix="q4_0", biases=True, **FEW)
    weights = random_weights(graph)
    x = np.random.default_rng(2).standard_normal((16, 64)).astype(np.float32)
    wanted = reference(graph, weights).step(x=x)
    for name, value in reference(stages(graph), weights).step(x=x).items():
        assert np.allclose(value, wanted[name], rtol=1e-12, atol=1e-12), name


def test_an_index_that_may_leave_the_pairs_is_refused() -> None:
    b = Builder("g")
    x, ids = b.input("x", (16, 64)), b.input("ids", (16, 2), "i32")
    _, starts = b.group(ids, experts=4, name="order")
    other, _ = b.group(b.input("more", (32, 2), "i32"), experts=4, name="other")
    with pytest.raises(FusecError, match=r"expected order: i32\[16, used\], found i32\[32, 2\]"):
        b.grouped_matvec(x, b.weight("w", (4 * 32, 64), "q4_0"), other, starts, rows=32)
    with pytest.raises(FusecError, match="expected at least one expert, found 0"):
        b.group(ids, experts=0)


# --- machine code --------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "sizes", "given"),
    [
        (512, (2048, 768, 128, 8), {"matrix": "q4_k"}),
        (32, (2880, 2880, 32, 4), {"matrix": "mxfp4", **ROUTINGS["chosen"]}),
        (512, (2048, 1536, 64, 6), {"matrix": "q6_k"}),
    ],
)
def test_real_shapes_assemble_without_spills(
    tokens: int, sizes: tuple[int, ...], given: dict[str, Any]
) -> None:
    width, ffn, experts, used = sizes
    graph = experts_graph(width, ffn, tokens=tokens, **{**given, "experts": experts, "used": used})
    compiled = driver.compile(graph, target="sm_90a")
    kernels = [compiled.backend.emit(k) for k in compiled.plan.kernels if "group" in k.name]
    assert len(kernels) == 3
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
