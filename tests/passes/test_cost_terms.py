"""The cost model term by term: bytes at a position, and what far memory and early launches change.

Each on a GPU of round numbers, worked out by hand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec.ir import Builder, Graph, gpus
from fusec.ir.graph import Node
from fusec.passes import cost
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.prefetch import prefetch
from tests.graphs import llama_graph
from tests.targets import ANY, SPLIT

# one byte of memory a nanosecond, two of L2; nothing else takes time unless a test says so
GPU = replace(
    gpus.find("H200"), sms=100, memory_bytes=1.0, cache_bytes=2.0, sm_bytes=1e9, instructions=1e9,
    boundary=0.0, block=0.0, touch=0.0, early=0.0, early_touch=0.0, gap=0.0, load=0.0, far_load=0.0,
    tree=0.0, barrier=0.0, instruction=0.0,
)  # fmt: skip
HEADS, KV_HEADS, DIM = 4, 2, 16


def model(layers: int = 1, **given: int) -> Graph:
    return llama_graph(layers=layers, heads=HEADS, kv_heads=KV_HEADS, head_dim=DIM, **given)


def node_of(graph: Graph, op: str) -> Node:
    return next(n for n in graph.nodes if n.kind == op)


def product(rows: int = 64) -> Node:
    b = Builder("g")
    w = b.weight("w", (rows, 64), "q8_0")
    return b.build(b.matvec(b.input("x", (1, 64)), w)).nodes[0]


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 15, 31])
def test_attention_moves_the_rows_up_to_its_position(position: int) -> None:
    """Query, result, the position itself; of k and v as many rows as there are positions."""
    vectors = 2 * 4 * HEADS * DIM + 4
    row = 2 * KV_HEADS * DIM
    found = cost.moved(node_of(model(), "attention"), position)
    assert found == vectors + (position + 1) * 2 * row


@pytest.mark.parametrize("position", [0, 9])
def test_an_append_moves_one_row_wherever_it_is(position: int) -> None:
    append = node_of(model(), "kv_append")
    assert cost.moved(append, position) == 4 * KV_HEADS * DIM + 4 + 2 * KV_HEADS * DIM


def test_a_fused_node_moves_what_goes_in_and_out_of_it_once() -> None:
    """Rotations and both appends: q twice, k and v, the position, a row of each cache."""
    fused = run_passes(model(), passes_of(2), ANY)[-1].graph
    heads, row = 4 * HEADS * DIM, KV_HEADS * DIM
    assert cost.moved(node_of(fused, "rope_kv_write")) == 2 * heads + 2 * 4 * row + 4 + 2 * 2 * row


def test_a_weight_that_is_read_twice_is_moved_once() -> None:
    b = Builder("g")
    x, w = b.input("x", (1, 64)), b.weight("w", (64, 64), "q8_0")
    graph = b.build(b.mul(b.matvec(x, w, name="a"), b.matvec(x, w, name="b"), name="c"))
    assert cost.moved(graph) == 4 * 64 + w.nbytes + 4 * 64


@pytest.mark.parametrize(("position", "spans"), [(0, 1), (255, 1), (256, 2), (511, 2), (512, 3)])
def test_spans_that_have_positions_have_blocks(position: int, spans: int) -> None:
    graph = run_passes(model(context=600), passes_of(3), SPLIT)[-1].graph
    (work,) = cost.works(node_of(graph, "attention_spans").region, GPU, position)
    assert work.blocks == HEADS * spans
    assert work.own == (position + 1) * 2 * 2 * KV_HEADS * DIM


# --- time ----------------------------------------------------------------------------------------


def test_far_weights_come_at_the_speed_of_memory_behind_its_first_byte() -> None:
    node = product()
    own = 64 * 2 * 34  # two blocks a row of 34 bytes
    (work,) = cost.works(node.region, GPU)
    assert work.own == own
    shared = work.shared / 2 / 1e3
    slow = replace(GPU, load=0.25, far_load=1.75)
    near = cost.launch_us(node, slow, far=False)
    far = cost.launch_us(node, slow, far=True)
    assert near.memory == pytest.approx(own / 2 / 1e3 + shared)
    assert far.memory == pytest.approx(own / 1e3 + shared + 1.5)
    # in front of its wait, an early launch has had the time to ask for the first bytes
    early = cost.launch_us(node, slow, far=True, early=True)
    assert early.memory == pytest.approx(own / 1e3 + shared)
    assert far.nbytes == near.nbytes == own + work.shared
    assert replace(far, memory=0) == replace(near, memory=0)


def test_what_has_no_weights_waits_for_no_far_byte() -> None:
    b = Builder("g")
    node = b.build(b.silu(b.input("x", (1, 64)))).nodes[0]
    slow = replace(GPU, far_load=100.0)
    assert cost.launch_us(node, slow, far=True) == cost.launch_us(node, slow, far=False)


def test_few_multiprocessors_bound_both_kinds_of_memory() -> None:
    """`sm_bytes` for each block there is, if that is less than memory or L2 give."""
    node = product(8)  # one block
    (work,) = cost.works(node.region, GPU)
    assert work.blocks == 1
    few = replace(GPU, sm_bytes=0.5)
    for far in (True, False):
        memory = cost.launch_us(node, few, far=far).memory
        assert memory == pytest.approx((work.own + work.shared) / 0.5 / 1e3)


@pytest.mark.parametrize("early", [False, True])
def test_a_boundary_is_for_as_many_blocks_as_there_are_multiprocessors(early: bool) -> None:
    gpu = replace(GPU, boundary=3.0, touch=5.0, early=1.0, early_touch=2.5, block=0.01)
    found = cost.launch_us(product(8), gpu, early=early)
    assert found.boundary == pytest.approx((1.0 if early else 3.0) + 0.01 * (1 - 100))
    assert found.chain == pytest.approx(1.5 if early else 2.0)  # load and store of a vector


def test_each_latency_counts_where_it_is_waited_for() -> None:
    """A product: its vector's digits and the row's sum, a barrier between them."""
    assert [
        cost.launch_us(product(), replace(GPU, **{name: 1.0}), far=False).chain
        for name in ("load", "tree", "barrier")
    ] == [0.0, 2.0, 1.0]


# --- tokens --------------------------------------------------------------------------------------


def far_of(launch_costs: list[cost.Cost]) -> list[bool]:
    """Which launches waited for far memory."""
    return [c.memory >= 1000 for c in launch_costs]


def test_weights_that_were_fetched_ahead_are_near() -> None:
    graph = model(layers=3)
    plan = lower(graph, "any", 0)
    gpu = replace(GPU, far_load=1000.0, l2_bytes=plan.weights_bytes)  # not all of them stay
    assert not cost.resident(plan, gpu)
    weighted = [n.op in ("embed", "matvec") for n in graph.nodes]  # a norm's are too few to count
    assert far_of(cost.token_costs(plan, gpu)) == weighted
    ahead = prefetch(plan)
    brought = [w and x.layer not in (1, 2) for w, x in zip(weighted, plan.launches, strict=True)]
    assert far_of(cost.token_costs(ahead, gpu)) == brought
    roomy = replace(gpu, l2_bytes=10 * plan.weights_bytes)
    assert not any(far_of(cost.token_costs(plan, roomy)))


def test_weights_may_fill_four_fifths_of_l2() -> None:
    plan = replace(lower(model(), "any", 0), weights_bytes=800)
    assert cost.resident(plan, replace(GPU, l2_bytes=1000))
    assert not cost.resident(plan, replace(GPU, l2_bytes=999))


def test_a_token_is_its_launches_a_gap_and_the_launch_that_hands_it_on() -> None:
    plan = lower(model(), "any", 0)
    gpu = replace(GPU, boundary=2.0, touch=2.0, gap=7.0)
    launches = cost.token_costs(plan, gpu, position=5)
    assert sum(c.boundary for c in launches) == pytest.approx(2.0 * len(plan.launches))
    found = cost.token_us(plan, gpu, position=5)
    assert found == pytest.approx(sum(c.total for c in launches) + 7.0 + 2.0)


def test_the_position_reaches_every_launch() -> None:
    """Of a token further on, the caches of all layers grow, and nothing else."""
    plan = lower(model(layers=2), "any", 0)
    one, other = (cost.token_costs(plan, GPU, position=p) for p in (3, 13))
    grown = [b.nbytes - a.nbytes for a, b in zip(one, other, strict=True)]
    attends = ["attention" in x.kernel for x in plan.launches]
    assert grown == [10 * 2 * 2 * KV_HEADS * DIM * attend for attend in attends]
