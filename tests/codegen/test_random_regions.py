"""Whatever the legality analysis accepts is one kernel on both targets, and computes the same.

Random graphs with every op of the table, and random connected sets of their nodes merged, as a rule
of a user's own could. The CPU's kernels run; CUDA's are run by the NumPy twins and compiled for
sm_90a.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fusec
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.ir import Graph, Reference
from fusec.ir.ops import OPS, kind_of, op
from fusec.ir.target import Target
from fusec.passes.legal import why_illegal
from fusec.passes.lower import lower
from fusec.passes.merge import merge
from tests.codegen.cuda.one_kernel import distance, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import Types, llama_graph, weights_for
from tests.params import slow_but
from tests.passes.stages import through
from tests.random_graphs import EVERYWHERE, Pick, connected_nodes, random_graph
from tests.targets import ANY, HOPPER

TRIES = 12  # sets of nodes looked at for one that is legal
POSITION = 5


def merged(graph: Graph, pick: Pick, target) -> Graph | None:
    """The graph with some legal set of its nodes merged, the largest of a few."""
    legal = []
    for _ in range(TRIES):
        nodes = connected_nodes(graph, pick, pick((2, 3, 4, 6)))
        if len(nodes) > 1 and why_illegal(graph, nodes, nodes, target) is None:
            legal.append(nodes)
    if not legal:
        return None
    best = max(legal, key=len)
    return merge(graph, [(best, kind_of(best))])[0]


def seeded(seed: int) -> Pick:
    return random.Random(seed).choice


def test_every_op_is_in_some_random_graph():
    """But for what only passes make, in one shape: their own tests run those."""
    found = {n.op for seed in range(60) for n in random_graph(seeded(seed), 12).nodes}
    of_passes = {"matvec_parts", "sum_parts", "attention_project", "fix", "group", "grouped_matvec"}
    of_passes |= {"split_matvec", "sum_experts", "clear_sums", "add_into"}
    assert found == set(OPS) - of_passes


@pytest.mark.slow
@given(st.data())
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_a_merge_means_the_same_and_runs_by_the_twins(data):
    pick = lambda choices: data.draw(st.sampled_from(list(choices)))  # noqa: E731
    graph = random_graph(pick, pick((2, 4, 8)))
    after = merged(graph, pick, HOPPER)
    assume(after is not None)
    check_twins(graph, after)


SEEDS, STEPS = range(30), 8


def seeded_merge(seed: int, target: Target = HOPPER, **given: Any) -> tuple[Graph, Graph]:
    """A graph, and the same with some of it merged: the first that has anything legal."""
    pick = seeded(seed)
    while True:
        graph = random_graph(pick, **{"steps": STEPS, **given})
        if (after := merged(graph, pick, target)) is not None:
            return graph, after


def test_the_seeds_merge_much() -> None:
    """One node each, and together they merge every role there is."""
    inside = [n.body for seed in SEEDS for n in seeded_merge(seed)[1].nodes if n.body]
    assert len(inside) == len(SEEDS)
    roles = {op(node.op).role for body in inside for node in body}
    assert roles >= {"vector", "rows", "element", "pair", "store"}
    assert max(map(len, inside)) >= 5


@pytest.mark.parametrize("seed", slow_but(SEEDS[:2], SEEDS))
def test_a_merge_runs_by_the_twins(seed):
    check_twins(*seeded_merge(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8, 23, 26])
def test_a_merge_in_a_step_of_many_rows_runs_by_the_twins(seed):
    """Where vectors are in fixed point: merged are what makes one, and what follows a product."""
    sizes = {"width": 64, "ffn": 96, "heads": 2, "kv_heads": 1, "vocab": 64, "context": 24}
    graph = llama_graph(layers=1, tokens=11, types=Types("q4_0"), **sizes)
    graph = through(graph, HOPPER, "place-weights", "factor-norms", "fix-vectors")
    after = merged(graph, seeded(seed), HOPPER)
    assert after is not None and {"fix", "matvec"} & {n.op for x in after.nodes for n in x.body}
    weights = random_weights(graph)
    given = {"token": np.arange(11) * 5 % 64, "pos": np.arange(11)}
    apart, whole = (TwinSession(g, weights, 0, target=ANY).step(**given) for g in (graph, after))
    for name, value in apart.items():
        assert whole[name].tobytes() == value.tobytes(), name


def check_twins(graph: Graph, after: Graph) -> None:
    """One kernel for the merged nodes gives the bytes of one for each, near the reference."""
    weights, given = random_weights(graph), inputs_of(graph, POSITION)
    before = TwinSession(graph, weights, 0, target=ANY)
    session = TwinSession(after, weights, 0, target=ANY)
    one, other = before.step(**given), session.step(**given)
    for name, value in reference(graph, weights).step(**given).items():
        assert one[name].tobytes() == other[name].tobytes(), name
        assert np.issubdtype(value.dtype, np.integer) or distance(one[name], value) < 1e-4, name
    for state in before.plan.states:
        assert before.memory[state].tobytes() == session.memory[state].tobytes()


@pytest.mark.cuda
def test_merges_compile_for_a_gpu():
    kernels = {}
    for seed in range(100, 106):
        _, after = seeded_merge(seed)
        (fused,) = (n for n in after.nodes if n.op == "fused")
        plan = lower(after, "sm_90a", 0)
        names = {launch.kernel for launch in plan.launches if launch.node == fused.name}
        kernels |= {k.name: k for k in plan.kernels if k.name in names}
    assert len(kernels) == 6
    for cubin in compile_many([emit(k) for k in kernels.values()], "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_merges_run_on_the_cpu(seed):
    graph, after = seeded_merge(seed, ANY, steps=6, ops=EVERYWHERE, matrices=("f32",))
    weights, given = weights_for(graph), inputs_of(graph, POSITION)
    given = {k: v.astype(np.int32) if v.dtype.kind == "i" else v for k, v in given.items()}
    wanted = Reference(graph, weights).step(**given)
    found = fusec.compile(after, level=0).session(weights).step(**given)
    for name, value in wanted.items():
        exact = np.issubdtype(value.dtype, np.integer)
        assert exact or distance(found[name], value) < 1e-4, name
