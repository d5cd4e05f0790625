"""The levels on decode graphs: counts, golden stages, and that every stage means the same."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fusec.errors import FusecError
from fusec.ir import Reference
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.passes.schedule import critical_path
from tests.graphs import Types, llama_graph, random_graphs, weights_for
from tests.passes.stages import thirty_layers
from tests.targets import ANY, HOPPER

GOLDEN = Path(__file__).parent / "golden"
# forward dispatches a layer, and those outside layers: the final norm and the output matrix
COUNTS = {0: (18, 2), 1: (10, 1), 2: (6, 1), 3: (5, 1)}


def compiled(graph, level, target=ANY, **options):
    return run_passes(graph, passes_of(level, **options), target)


@pytest.mark.xdist_group("30 layers")
@pytest.mark.parametrize("target", [ANY, HOPPER], ids=lambda t: t.name)
@pytest.mark.parametrize(("level", "forward"), [(0, 542), (1, 301), (2, 181), (3, 151)])
def test_dispatches_of_a_30_layer_graph(level, forward, target):
    """Clusters of blocks make two launches less of a layer."""
    plan = thirty_layers(level, target)
    per_layer, outside = COUNTS[level]
    if target is HOPPER and level == 3:
        per_layer, forward = 3, 91
    assert forward == 30 * per_layer + outside
    embed = {} if level == 3 else {"embed": 1}  # at -O3 a part of the first layer's first kernel
    assert plan.dispatches == {
        "forward": forward,
        "per_layer": per_layer,
        "other": {**embed, "sample": 1},
    }


@pytest.mark.parametrize("level", [level for level in LEVELS if level < 4])
def test_stages_are_those_on_file(level, update_golden):
    """A stage that changes nothing has no file; -O4 is -O3 and a pass (`test_rows_of_heads`)."""
    target, sizes = ANY, {"tokens": 2}
    if level == 3:  # what a GPU runs: norms are factored, attention is split, and projected
        target, sizes = HOPPER, {"context": 600, "heads": 2, "kv_heads": 1}
    before = ""
    stages = compiled(llama_graph(layers=1, **sizes), level, target)
    names = {f"O{level}-{i:02}-{stage.name}.ir" for i, stage in enumerate(stages)}
    assert {path.name for path in GOLDEN.glob(f"O{level}-*.ir")} <= names, "of no stage"
    for i, stage in enumerate(stages):
        path, after = GOLDEN / f"O{level}-{i:02}-{stage.name}.ir", str(stage.graph)
        if update_golden:
            path.unlink(missing_ok=True)
            if after != before:
                path.write_text(after)
        wanted = path.read_text() if path.exists() else before
        assert after == wanted, f"{path} differs: UPDATE_GOLDEN=1 rewrites it"
        before = after


@pytest.mark.parametrize("level", LEVELS)
def test_every_stage_computes_the_same(level):
    types = Types("f32")
    graph = llama_graph(types=types, tokens=3)
    weights = weights_for(graph)
    inputs = {"token": np.array([3, 7, 3]), "pos": np.arange(3)}
    wanted = Reference(graph, weights).step(**inputs)["logits"]
    for stage in compiled(graph, level):
        found = Reference(stage.graph, weights).step(**inputs)["logits"]
        assert found.tobytes() == wanted.tobytes(), stage.name


@given(random_graphs())
@settings(max_examples=60, deadline=None)
def test_every_level_keeps_the_meaning_of_random_graphs(graph):
    weights = weights_for(graph)
    random = np.random.default_rng(1)
    inputs = {v.name[1:]: random.standard_normal(v.shape) for v in graph.inputs}
    inputs["pos"] = np.array([3])
    before = Reference(graph, weights)
    wanted = before.step(**inputs)
    for level in LEVELS:
        final = compiled(graph, level)[-1].graph
        after = Reference(final, weights)
        found = after.step(**inputs)
        for name, value in wanted.items():
            assert found[name].tobytes() == value.tobytes()
        for name, state in before.states.items():
            assert after.states[name].tobytes() == state.tobytes()
        assert final.unfused().replace_nodes(()) == graph.replace_nodes(())
        assert {n.name for n in final.unfused().nodes} == {n.name for n in graph.nodes}


def test_a_disabled_rule_leaves_its_nodes_and_others_go_on():
    stages = compiled(llama_graph(), 2, disable=["epilogue"])
    kinds = [n.kind for n in stages[-1].graph.nodes]
    assert kinds.count("silu_mul") == 2
    assert kinds.count("add") == 4
    assert kinds.count("rope_kv") == 2
    assert not {"matvec_add", "norm_matvec_silu_mul"} & set(kinds)
    with pytest.raises(FusecError, match="no rule or pass 'nothing': known are add-in-l2, chain, "):
        passes_of(2, disable=["nothing"])


def test_without_the_chain_its_ops_still_go_into_the_matrix_they_follow():
    found, usual = (
        [n.kind for n in compiled(llama_graph(), 2, disable=off)[-1].graph.nodes]
        for off in (["chain"], [])
    )
    assert found == usual


def test_stop_after_ends_the_pipeline():
    stages = run_passes(llama_graph(), passes_of(2), ANY, stop_after="fuse-pairs")
    assert stages[-1].name == "fuse-pairs"
    assert run_passes(llama_graph(), passes_of(2), ANY, stop_after="pairs")[-1].name == "fuse-pairs"
    with pytest.raises(FusecError, match="no pass 'pair' at this level: it runs decode-graph"):
        run_passes(llama_graph(), passes_of(2), ANY, stop_after="pair")


def test_an_unknown_level_is_refused():
    with pytest.raises(FusecError, match="unknown level -O9: known are 0, 1, 2, 3"):
        passes_of(9)


def test_a_pass_that_breaks_the_graph_is_named():
    class Breaks:
        name = "breaks"

        def run(self, graph, target):
            return graph.replace_nodes(graph.nodes[1:]), 0, ()

    with pytest.raises(FusecError, match="pass breaks broke the graph: %blk"):
        run_passes(llama_graph(), (Breaks(),), ANY)


def test_the_critical_path_shrinks_with_the_level():
    depth = [critical_path(compiled(llama_graph(), level)[-1].graph) for level in LEVELS]
    # norm q rope append attention o add norm gate silu mul down add; embed, norm, head, next;
    # at -O3 qkv attention o gate down; head, next
    assert depth == [2 * 13 + 4, 2 * 10 + 3, 2 * 6 + 3, 2 * 5 + 2, 2 * 5 + 2]
