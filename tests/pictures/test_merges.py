"""What a pass made of what, found from the graphs before and after it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fusec import driver
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.pictures.merges import Merge, makers, merges
from tests.graphs import llama_graph
from tests.targets import ANY


def stages(level: int, **shape: object):
    return run_passes(llama_graph(**shape), passes_of(level), ANY)


def kinds(merge: Merge) -> tuple[list[str], list[str], int, str]:
    return (
        [n.kind for n in merge.before],
        [n.kind for n in merge.after],
        merge.times,
        merge.layers,
    )


def found(level: int, name: str, **shape: object) -> list[tuple[list[str], list[str], int, str]]:
    for before, stage in pairwise(stages(level, **shape)):
        if stage.name == name:
            return [kinds(merge) for merge in merges(before.graph, stage.graph)]
    pytest.fail(f"no pass {name}")


def test_a_graph_is_as_it_was():
    graph = llama_graph(layers=2)
    assert merges(graph, graph) == []


def test_matches_that_are_alike_in_several_layers_are_one():
    assert found(2, "fuse-chain", layers=3) == [(["silu", "mul"], ["silu_mul"], 3, "0-2")]
    assert found(2, "fuse-stack", layers=3) == [
        (["matvec"] * 3, ["matvec"], 3, "0-2"),
        (["matvec"] * 2, ["matvec"], 3, "0-2"),
    ]


def test_one_kind_in_two_places_of_a_layer_is_two():
    """A norm in front of QKV, and one in front of gate and up, and one in front of the logits."""
    assert found(2, "fuse-prologue", layers=3) == [
        (["rms_norm", "matvec"], ["norm_matvec"], 3, "0-2"),
        (["rms_norm", "matvec"], ["norm_matvec"], 3, "0-2"),
        (["rms_norm", "matvec"], ["norm_matvec"], 1, ""),
    ]


def test_a_split_is_what_it_makes_of_one_node():
    run = driver.compile(llama_graph(layers=2), target="sm_90a", level=3).stages
    (split,) = ((a, b) for a, b in pairwise(run) if b.name == "split-attention")
    assert [kinds(merge) for merge in merges(split[0].graph, split[1].graph)] == [
        (["attention"], ["attention_spans", "attention_combine"], 2, "0-1")
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_lost_and_nothing_counted_twice(level: int):
    for before, stage in pairwise(stages(level, layers=2)):
        mine = merges(before.graph, stage.graph)
        gone = [n for n in before.graph.nodes if n not in set(stage.graph.nodes)]
        new = [n for n in stage.graph.nodes if n not in set(before.graph.nodes)]
        assert sum(m.times * len(m.before) for m in mine) == len(gone)
        assert sum(m.times * len(m.after) for m in mine) == len(new)
        assert all(m.before and m.after for m in mine)


def test_a_kernel_s_passes_are_those_that_made_what_is_in_it():
    run = stages(2, layers=2)
    passes = [(f"pass-{i}", b.name, merges(a.graph, b.graph))
              for i, (a, b) in enumerate(pairwise(run))]  # fmt: skip
    (ffn,) = (n for n in run[-1].graph.nodes if n.kind == "norm_matvec_silu_mul" and n.layer == 1)
    assert [name for _, name in makers(passes, ffn)] == [
        "fuse-stack", "fuse-prologue", "fuse-chain", "fuse-epilogue"
    ]  # fmt: skip
    (attention,) = (n for n in run[-1].graph.nodes if n.kind == "attention" and n.layer == 1)
    assert makers(passes, attention) == []
