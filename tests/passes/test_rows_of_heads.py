"""Clusters that make their head's rows before they attend: when they do, and each reason not to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec import backends
from fusec.ir import Graph
from fusec.ir.region import analyse
from fusec.passes.cost import launch_us
from fusec.passes.pipeline import Stage, passes_of, run_passes
from tests.graphs import Types, block_graph, llama_graph
from tests.passes.stages import distance
from tests.targets import ANY, HOPPER

SIZES = {"width": 192, "ffn": 32, "heads": 3, "kv_heads": 1, "vocab": 32, "context": 300}
FLOATS = replace(HOPPER, column_sums=replace(HOPPER.column_sums, formats=frozenset({"f32"})))


def model(**sizes: object) -> Graph:
    return llama_graph(**(SIZES | {"head_dim": 64, "types": Types("q8_0")} | sizes))


def stage(graph: Graph, target=HOPPER) -> Stage:
    """What the pass made of a graph that all others have seen."""
    stages = run_passes(graph, passes_of(4), target)
    return next(s for s in stages if s.name == "rows-of-heads")


def reasons(graph: Graph, target=HOPPER) -> set[str]:
    found = stage(graph, target)
    assert found.hits == 0
    return {refusal.reason for refusal in found.refused}


def test_a_layer_is_two_launches() -> None:
    found = stage(model())
    assert (found.hits, found.refused) == (2, ())
    kinds = [node.kind for node in found.graph.nodes if node.layer == 1]
    assert kinds == [
        "sum_norm_matvec_rope_kv_attention_project", "sum_norm_matvec_silu_mul_parts"
    ]  # fmt: skip


def test_what_the_kernel_is_made_of() -> None:
    node = next(n for n in stage(model()).graph.nodes if n.layer == 1)
    shape = analyse(node.region)
    assert [n.op for n in shape.prologue] == ["add_parts", "rms_factors"]
    assert [n.op for n in shape.rows_of_heads] == ["matvec"] * 3
    assert [n.op for n in shape.of_heads] == ["rope", "rope", "kv_append", "kv_append"]
    assert [s.role for s in shape.segments] == ["heads"]
    assert [v.name for v in shape.stores] == ["%blk.0.ffn_residual"]


def test_norms_of_heads_may_be_in_between() -> None:
    sizes = {"heads": 2, "kv_heads": 1, "head_dim": 64, "width": 128, "context": 300}
    graph = block_graph(**sizes, matrix="q8_0", head_norms=True, biases=True)
    assert stage(graph).hits == 2


def test_its_meaning_stays() -> None:
    graph = model(types=Types("f32"), kv="f32")
    stages = run_passes(graph, passes_of(4), FLOATS)
    assert next(s for s in stages if s.name == "rows-of-heads").hits == 2
    assert distance(stages[0], stages[-1]) < 1e-12


@pytest.mark.parametrize(("heads", "blocks"), [(3, 8), (12, 4), (16, 4)])
def test_clusters_leave_half_of_the_gpu_alone(heads: int, blocks: int) -> None:
    gpu = backends.get("sm_90a").limits.gpu
    found = stage(model(heads=heads, width=256), replace(HOPPER, gpu=gpu))
    assert found.hits == 2
    made = [op for n in found.graph.nodes for op in n.ops if op.op == "attention_project"]
    assert {int(op["spans"]) for op in made} == {blocks}


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ({"tokens": 2}, "several rows: attention_project %blk.0.attn_residual.parts has 2 rows"),
        ({"context": 4096}, "takes no projection in"),
        ({"types": Types("q8_0", **{"blk.0.attn_v.weight": "q4_0"})}, "two types"),
        ({"types": Types("q8_0", **{"blk.0.attn_q.weight": "f16"})}, "no blocks of 32"),
    ],
)
def test_it_is_refused_with_a_reason(graph: dict[str, object], reason: str) -> None:
    found = stage(model(layers=1, **graph))
    assert found.hits == 0
    assert [reason in refusal.reason for refusal in found.refused] == [True]


def test_a_block_makes_only_so_many_rows() -> None:
    (reason,) = reasons(model(), replace(HOPPER, makes_rows=16))
    assert "too many rows: 192 of a head for 8 thread blocks, which make 16 each" in reason


def test_other_targets_have_no_clusters() -> None:
    assert reasons(model(), replace(HOPPER, makes_rows=0)) == {
        f"no clusters of thread blocks on {HOPPER.name}"
    }
    assert reasons(model(), ANY) == {f"no clusters of thread blocks on {ANY.name}"}


def test_the_cost_model_knows_what_a_launch_less_saves() -> None:
    """As measured, the two launches of one layer: 2.2 us merged or not, and 0.5 for a boundary."""
    gpu = backends.get("sm_90a").limits.gpu
    assert gpu is not None
    found = stage(model(heads=9, kv_heads=3, width=576, ffn=1536), replace(HOPPER, gpu=gpu))
    before = run_passes(model(heads=9, kv_heads=3, width=576, ffn=1536), passes_of(3), HOPPER)
    apart = [n for n in before[-1].graph.nodes if n.layer == 1][:2]
    (merged, *_) = (n for n in found.graph.nodes if n.layer == 1)
    both = sum(launch_us(n, gpu, early=True).total for n in apart)
    assert 0.7 * both < launch_us(merged, gpu, early=True).total < both
