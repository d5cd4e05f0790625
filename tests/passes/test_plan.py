"""Scheduling, memory and the launch plan."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from fusec.ir import Builder
from fusec.ir.choosing import final_choice, without_choice
from fusec.ir.plan import from_json
from fusec.passes.lower import lower
from fusec.passes.memory import ALIGNMENT, arena_bytes, live_ranges, plan_memory
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.schedule import Schedule, critical_path
from tests.graphs import Types, llama_graph, random_graphs
from tests.targets import ANY, HOPPER


def final(graph, level=2):
    return run_passes(graph, passes_of(level), ANY)[-1].graph


@given(random_graphs())
@settings(max_examples=60, deadline=None)
def test_values_alive_together_never_share_bytes(graph):
    slots = list(plan_memory(graph).values())
    for i, one in enumerate(slots):
        assert one.offset % ALIGNMENT == 0
        assert one.size >= one.value.nbytes
        for other in slots[:i]:
            together = one.first <= other.last and other.first <= one.last
            assert not (together and one.overlaps(other))


def test_nothing_else_is_ever_where_an_index_is():
    """Plans are run without some launches: an old float in the place of an expert is anywhere."""
    b = Builder("chosen")
    x, at_row = b.input("x", (1, 64)), b.weight("rows", (300, 64), "f32")
    for n in range(3):
        x = b.add(x, b.embed(b.argmax(b.matvec(x, b.weight(f"w{n}", (300, 64), "f32"))), at_row))
    slots = list(plan_memory(b.build(x)).values())
    chosen = [slot for slot in slots if slot.value.dtype == "i32"]
    assert len(chosen) == 3
    for one in chosen:
        assert not any(one.overlaps(other) for other in slots if other is not one)


def test_the_arena_is_reused():
    graph = final(llama_graph(layers=8))
    slots = plan_memory(graph)
    total = sum(s.size for s in slots.values())
    widest = max(
        sum(v.nbytes for v, first, last in live_ranges(graph).values() if first <= i <= last)
        for i in range(len(graph.nodes))
    )
    assert widest <= arena_bytes(slots) <= 2 * widest < total / 2


@given(random_graphs())
@settings(max_examples=60, deadline=None)
def test_waits_cover_every_hazard(graph):
    """Whatever two launches touch of the same bytes, with one writing, is ordered by `waits`."""
    graph = final(graph)
    plan = lower(graph, "any", 2)
    slots = plan_memory(graph)
    reach: list[set[int]] = []
    for launch in plan.launches:
        reach.append(set(launch.waits).union(*(reach[w] for w in launch.waits)))
    touched = []
    for node in graph.nodes:
        reads = {v for v in node.inputs if not v.is_weight}
        touched.append((reads, set(node.outputs)))

    def clash(a, b):
        if a.is_state or b.is_state:
            return a.buffer == b.buffer
        return a.name in slots and b.name in slots and slots[a.name].overlaps(slots[b.name])

    for j, (reads, writes) in enumerate(touched):
        for i in range(j):
            before_reads, before_writes = touched[i]
            hazard = any(clash(a, b) for a in before_writes for b in reads | writes) or any(
                clash(a, b) for a in before_reads for b in writes
            )
            assert not hazard or i in reach[j]


def test_a_plan_survives_json():
    plan = lower(final(llama_graph(rope_factors=True)), "any", 2)
    assert from_json(plan.to_json()) == plan
    assert list(plan.tables) == ["rope(base=10000.0, dims=16, scale=1.0, @rope_freqs.weight)"]


def test_layers_share_their_kernels():
    plan = lower(final(llama_graph(layers=5)), "any", 2)
    assert len(plan.kernels) == 9
    regions = {k.name: k.region for k in plan.kernels}
    assert all(f"graph {name}(" in region for name, region in regions.items())


def test_kernels_depend_on_neither_tokens_nor_context():
    one = lower(final(llama_graph(tokens=1, context=16)), "any", 2)
    many = lower(final(llama_graph(tokens=7, context=64)), "any", 2)
    assert one.kernels == many.kernels


def test_without_logits_only_what_feeds_the_cache_is_left():
    plan = lower(final(llama_graph(layers=2)), "any", 2)
    absorbed = plan.only(set())
    kept = [launch.node for launch in absorbed.launches]
    assert kept[-1] == "%blk.1.k_rope" or absorbed.launches[-1].writes[-1].startswith("$blk.1")
    assert "%logits" not in kept and "%blk.1.attn" not in kept
    for i, launch in enumerate(absorbed.launches):
        assert all(w < i for w in launch.waits)
    assert plan.only({"%next"}) == plan


def chosen(name="next", behind=False):
    """A choice among parts that somebody gives; `behind` it, a launch that it is not the end of."""
    b = Builder("g")
    best = b.argmax_combine(b.input("best", (1, 8)), b.input("places", (1, 8), "i32"), name=name)
    others = (b.silu(b.input("x", (1, 4)), name="y"), b.silu(b.input("z", (1, 4)), name="w"))
    return lower(b.build(best, *others) if behind else b.build(*others, best), "cuda", 3)


def test_a_greedy_token_chooses_where_it_hands_the_token_on():
    """What is left out is the last launch and its kernel, and nothing else."""
    graph = run_passes(llama_graph(types=Types("f32"), vocab=80), passes_of(3), HOPPER)[-1].graph
    plan = lower(graph, "sm_90a", 3)
    last = plan.launches[-1]
    assert final_choice(plan) == final_choice(from_json(plan.to_json())) == last
    assert [node.op for node in plan.region(last).nodes] == ["argmax_combine"]
    assert [arg.name for arg in last.args[:2]] == ["%next.parts", "%next.parts.places"]
    assert {arg.kind for arg in last.args[:2]} == {"arena"}
    assert last.args[2:] == (plan.output_args["%next"],)
    greedy = without_choice(plan)
    assert greedy.launches == plan.launches[:-1]
    assert {k.name for k in plan.kernels} - {k.name for k in greedy.kernels} == {last.kernel}
    assert replace(greedy, launches=plan.launches, kernels=plan.kernels) == plan


@pytest.mark.parametrize(
    "plan",
    [
        lower(run_passes(llama_graph(), passes_of(2), HOPPER)[-1].graph, "sm_90a", 2),
        lower(run_passes(llama_graph(), passes_of(3), ANY)[-1].graph, "any", 3),
        chosen("other"),
        chosen(behind=True),
        replace(chosen(), launches=()),
    ],
    ids=["level 2", "one block", "another output", "not the end", "nothing"],
)
def test_other_ends_of_a_plan_stay(plan):
    assert final_choice(plan) is None
    assert without_choice(plan) is plan


def test_an_old_state_is_read_before_it_is_appended_to():
    from fusec.ir import Builder

    b = Builder("g")
    pos, x = b.input("pos", (1,), "i32"), b.input("x", (1, 32))
    k, v = b.state("k", (8, 2, 16)), b.state("v", (8, 2, 16))
    before = b.attention(x, k, v, pos, heads=2, kv_heads=2, scale=1.0, name="before")
    b.kv_append(k, x, pos)
    graph = b.build(before)
    shuffled = Schedule().run(graph, ANY)[0]
    assert [n.name for n in shuffled.nodes] == ["%before", "$k'"]
    assert lower(shuffled, "any", 0).launches[1].waits == (0,)


def wide_graph():
    """Of %x: a chain of two, one of four, and a node that both a long and a short chain follow."""
    b = Builder("wide")
    x = b.input("x", (1, 32))
    short = b.silu(b.silu(x, name="short"), name="short.end")
    fork = b.silu(x, name="fork")
    side = b.silu(fork, name="fork.side")
    long = b.silu(b.silu(b.silu(fork, name="a"), name="b"), name="c")
    return b.build(short, side, long)


def test_what_most_launches_wait_for_goes_first():
    """By the longest of the chains behind a node, and in the graph's order where they are equal."""
    order = [n.name for n in Schedule().run(wide_graph(), ANY)[0].nodes]
    assert order == ["%fork", "%a", "%short", "%b", "%short.end", "%fork.side", "%c"]


def test_the_critical_path_counts_launches():
    b = Builder("line")
    x = b.input("x", (1, 32))
    one = b.silu(x)
    assert critical_path(b.build(one)) == 1
    assert critical_path(b.build(b.silu(b.silu(one)), b.silu(x))) == 3
    assert critical_path(wide_graph()) == 4
    assert critical_path(replace(wide_graph(), nodes=(), outputs=())) == 0


def test_the_schedule_follows_the_longest_chain():
    graph = llama_graph(layers=1)
    order = [n.name for n in Schedule().run(graph, ANY)[0].nodes]
    # the key still has to be rotated and appended before attention, the query only rotated
    assert order.index("%blk.0.k") < order.index("%blk.0.q")
    assert sorted(order) == sorted(n.name for n in graph.nodes)
