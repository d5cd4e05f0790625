"""Programmatic dependent launch: which launches start early, and every reason why one does not."""

from dataclasses import replace

import pytest

from fusec import driver
from fusec.ir import Builder
from fusec.ir.plan import Arg, Kernel, Launch, from_json
from fusec.passes.overlap import overlap, why_not
from tests.graphs import llama_graph


def plan_of(graph, target="sm_90a", level=3):
    return driver.compile(graph, target=target, level=level).plan


def early(plan):
    return [launch.early for launch in plan.launches]


def launch(node, kernel="waits", *, reads=(), writes=None, waits=(), early=True):
    return Launch(node, kernel, tuple(reads), writes or (node,), waits, None, "forward", early)


KERNELS = {
    "waits": Kernel("waits", "", overlaps=True),
    "plain": Kernel("plain", "", overlaps=False),
}


# --- plans ---------------------------------------------------------------------------------------


def test_all_launches_but_the_first_are_early_at_level_3():
    plan = plan_of(llama_graph(layers=30, context=600))
    assert early(plan) == [False] + [True] * 121  # of 4 a layer, the output matrix and argmax
    assert plan.overlaps
    assert all(kernel.overlaps for kernel in plan.kernels)


@pytest.mark.parametrize(("target", "level"), [("sm_90a", 2), ("sm_80", 3), ("sm_89", 3)])
def test_other_levels_and_older_gpus_have_none(target, level):
    plan = plan_of(llama_graph(), target, level)
    assert not any(early(plan))
    assert not plan.overlaps
    assert not any(kernel.overlaps for kernel in plan.kernels)


def test_early_launches_survive_json():
    plan = plan_of(llama_graph(layers=1))
    read = from_json(plan.to_json())
    assert read == plan
    assert (early(read), read.overlaps) == (early(plan), True)


def test_a_launch_whose_predecessor_is_left_out_is_no_longer_early():
    b = Builder("g")
    x = b.input("x", (1, 32))
    first = b.matvec(x, b.weight("w", (32, 32)), name="first")
    side = b.matvec(x, b.weight("v", (8, 32)), name="side")
    plan = overlap(plan_of(b.build(side, b.silu(first, name="last")), level=0))
    assert [launch.node for launch in plan.launches] == ["%first", "%side", "%last"]
    assert early(plan) == [False, True, True]
    without = plan.only({"%last"})
    assert [launch.node for launch in without.launches] == ["%first", "%last"]
    assert early(without) == [False, False]
    assert plan.only({"%last", "%side"}) == plan


def test_of_two_plans_of_one_model_the_shorter_keeps_what_it_may():
    plan = plan_of(llama_graph(layers=2))
    absorbed = plan.only(set())  # without the second layer's attention and all behind it
    assert len(absorbed.launches) == 5
    assert early(absorbed) == [False] + [True] * 4


# --- reasons -------------------------------------------------------------------------------------


def test_without_a_reason_a_launch_is_early():
    launches = [launch("%a"), launch("%b", reads=[Arg("arena", "%a")], waits=(0,))]
    assert why_not(launches, KERNELS, 1) is None


def test_nothing_in_front():
    assert why_not([launch("%a")], KERNELS, 0) == "nothing in front of it in this plan"


def test_a_kernel_that_does_not_wait():
    launches = [launch("%a"), launch("%b", "plain")]
    reason = "its kernel plain does not wait for what it reads"
    assert why_not(launches, KERNELS, 1) == reason


@pytest.mark.parametrize("kind", ["input", "weight", "table"])
def test_what_is_read_before_the_wait_must_not_come_from_the_launch_in_front(kind):
    launches = [launch("%a", writes=("%x", "%pos")), launch("%b", reads=[Arg(kind, "%pos")])]
    assert why_not(launches, KERNELS, 1) == (
        "it reads %pos before it waits, and %a in front of it writes that"
    )


def test_nor_from_any_launch_in_front_that_may_still_run():
    """%c may start while %a runs, because %b started early; had %b not, %a would have ended."""
    writer, reader = launch("%a", writes=("%pos",), early=False), [Arg("input", "%pos")]
    between = [launch(f"%b{n}") for n in range(3)]
    for count in (1, 2, 3):
        launches = [writer, *between[:count], launch("%c", reads=reader)]
        assert why_not(launches, KERNELS, count + 1) == (
            "it reads %pos before it waits, and %a in front of it writes that"
        )
    between[1] = replace(between[1], early=False)
    assert why_not([writer, *between, launch("%c", reads=reader)], KERNELS, 4) is None


@pytest.mark.parametrize("kind", ["arena", "state"])
def test_what_is_read_behind_the_wait_may_come_from_it(kind):
    launches = [launch("%a", writes=("%x",)), launch("%b", reads=[Arg(kind, "%x")])]
    assert why_not(launches, KERNELS, 1) is None


def test_a_buffer_still_being_read_by_the_kernel_before_last():
    """%b started early and does not wait for %a, so %a may run on when %b has ended."""
    launches = [launch("%a", early=False), launch("%b", "plain"), launch("%c", waits=(0,))]
    assert why_not(launches, KERNELS, 2) == (
        "%a may still run: %b in front of it does not wait for %a"
    )
    assert why_not([*launches[:2], launch("%c", waits=(1,))], KERNELS, 2) is None
    late = [launches[0], replace(launches[1], early=False), launches[2]]
    assert why_not(late, KERNELS, 2) is None  # %b began when %a had ended
    waiting = [launches[0], launch("%b"), launches[2]]
    assert why_not(waiting, KERNELS, 2) is None  # %b waited for %a


def test_a_whole_row_of_kernels_that_do_not_wait():
    launches = [
        launch("%a", early=False), launch("%b", "plain"), launch("%c", "plain"),
        launch("%d", waits=(0,)),
    ]  # fmt: skip
    assert why_not(launches, KERNELS, 3) == (
        "%a may still run: %c in front of it does not wait for %a"
    )
