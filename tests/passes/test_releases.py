"""Early reads, wherever the launches in front let those behind them begin."""

from dataclasses import replace

from fusec.ir.plan import Arg, Kernel, Launch
from fusec.passes.overlap import why_not

KERNELS = {"k": Kernel("k", "", overlaps=True)}


def launch(name, reads=(), writes=None, waits=(), early=True):
    args = tuple(Arg("input", r) for r in reads)
    return Launch(name, "k", args, writes or (name,), waits, None, "forward", early)


def chain(*, early):
    """%c reads before its wait what %a writes; %b between them may let it begin at once."""
    return [
        launch("%z", early=False),
        launch("%a", writes=("%token",), early=early),
        launch("%b"),
        launch("%c", reads=("%token",)),
    ]


def test_what_an_earlier_launch_writes_is_not_read_before_the_wait():
    reason = why_not(chain(early=True), KERNELS, 3)
    assert reason == "it reads %token before it waits, and %a in front of it writes that"


def test_the_reach_ends_at_a_launch_that_started_alone():
    launches = chain(early=True)
    launches[2] = replace(launches[2], early=False)
    assert why_not(launches, KERNELS, 3) is None


def test_a_launch_that_started_alone_may_itself_still_run():
    assert "%a in front of it writes that" in str(why_not(chain(early=False), KERNELS, 3))
