"""Blocks of other models than llama: the launches they make, their kernels, and their meaning."""

from dataclasses import replace

import pytest

from fusec import backends
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import BLOCKS, block_graph
from tests.passes.stages import distance
from tests.targets import ANY, HOPPER

SM90 = backends.get("sm_90a")
LIMITS = SM90.limits  # with the GPU: merges have to pay
FLOATS = replace(HOPPER, column_sums=replace(HOPPER.column_sums, formats=frozenset({"f32"})))
SIZES = {
    "width": 1024, "ffn": 3072, "heads": 16, "kv_heads": 8, "head_dim": 64, "vocab": 1024,
    "context": 512, "matrix": "q4_k",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "launches"), [("llama", 4), ("geglu", 4), ("biases", 4), ("gemma", 4)]
)
def test_launches_of_a_layer(name, launches):
    graph = block_graph(**SIZES, **BLOCKS[name])
    final = run_passes(graph, passes_of(3), LIMITS)[-1].graph
    assert [n.layer for n in final.nodes].count(1) == launches
    assert lower(final, "sm_90a", 3).dispatches["per_layer"] == launches


@pytest.mark.parametrize("name", ["llama", "geglu"])
def test_what_gates_makes_no_difference(name):
    graph = block_graph(**BLOCKS[name])
    finals = [run_passes(graph, passes_of(level), ANY)[-1].graph for level in LEVELS]
    assert [lower(g, "any", 0).dispatches["per_layer"] for g in finals] == [18, 10, 6, 5, 5]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_kernel_can_be_emitted(name):
    final = run_passes(block_graph(**SIZES, **BLOCKS[name]), passes_of(3), LIMITS)[-1].graph
    plan = overlap(lower(final, "sm_90a", 3))
    for kernel in plan.kernels:
        assert SM90.emit(kernel).name == kernel.name


@pytest.mark.parametrize("target", [ANY, FLOATS], ids=lambda t: t.name)
@pytest.mark.parametrize("name", BLOCKS)
def test_their_meaning_stays(name, target):
    graph = block_graph(heads=2, kv_heads=1, head_dim=32, context=300, matrix="f32", kv="f32",
                        **BLOCKS[name])  # fmt: skip
    for level in LEVELS:
        stages = run_passes(graph, passes_of(level), target)
        assert distance(stages[0], stages[-1]) < 1e-12
