"""A kernel's body by stages, and the wrappers it is put into."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from fusec import driver
from fusec.codegen.cuda import emit as emitter
from fusec.codegen.cuda.candidates import default_of
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.stages import Stage, Staged
from fusec.codegen.cuda.wrapper import Dependent, Launched, Wrapper, assemble
from fusec.ir.choice import RELEASES
from fusec.ir.plan import Kernel
from tests.codegen.cuda.test_pairs import PAIRS, kernel_of, with_residual
from tests.codegen.cuda.test_tiles import feed_forward
from tests.graphs import Types, llama_graph

WRITTEN = [stage for stage in Stage if stage is not Stage.WAIT]


def body() -> Staged:
    """A line or two in every stage, written from the last to the first."""
    w = Staged()
    for stage in reversed(WRITTEN):
        with w.at(stage):
            w.line(f"a_{stage.name}")
            w.line(f"b_{stage.name}")
    return w


def nothing_held() -> list[str]:
    return []


def test_stages_are_in_order_and_their_lines_as_written() -> None:
    lines = assemble(body(), Launched(), nothing_held)
    assert lines == [f"{which}_{stage.name}" for stage in WRITTEN for which in "ab"]


def test_pieces_of_a_stage_follow_one_another_with_guards_and_blank_lines() -> None:
    w = Staged()
    with w.at(Stage.LOAD, guard="block < 3"):
        with w.block("for i in range(2):"):
            w.line("load(i)", "a comment")
        w.line()
        w.line("more")
    with w.at(Stage.COMPUTE):
        w.line("compute")
    with w.at(Stage.LOAD, apart=True):
        w.line("last")
    with w.at(Stage.LOAD, guard="never", apart=True):
        pass  # nothing was written: neither a guard nor a blank line
    assert w.lines(Stage.LOAD) == [
        "if block < 3:", "    for i in range(2):", "        load(i)  # a comment", "", "    more",
        "", "last",
    ]  # fmt: skip
    assert w.lines(Stage.COMPUTE) == ["compute"]
    assert w.lines(Stage.READ) == w.lines(Stage.WAIT) == []


def test_each_stage_begins_at_the_margin() -> None:
    w = Staged()
    with pytest.raises(RuntimeError), w.at(Stage.FIND), w.block("if left:"):
        raise RuntimeError
    other = Staged()
    with other.at(Stage.FIND):
        other.line("if one:")
        other.line("    two")
    with other.at(Stage.READ):
        other.line("three")
    assert other.lines(Stage.READ) == ["three"]


def test_a_line_of_no_stage_fails() -> None:
    w = Staged()
    with pytest.raises(AssertionError, match="a line of no stage: lost"):
        w.line("lost")
    with w.at(Stage.FIND):
        w.line("found")
    with pytest.raises(AssertionError, match="a line of no stage: late"):
        w.line("late")


def test_stages_are_not_opened_inside_others_and_nothing_is_written_in_the_wait() -> None:
    w = Staged()
    with w.at(Stage.FIND), pytest.raises(AssertionError), w.at(Stage.LOAD):
        pass
    with pytest.raises(AssertionError), w.at(Stage.WAIT):
        pass


# --- wrappers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_a_dependent_launch_waits_once_and_releases_once(release: str) -> None:
    """Where the next launch may begin, by the lines around it."""
    lines = assemble(body(), Dependent(release), lambda: ["held"])
    added = [line for line in lines if not line.startswith(("a_", "b_"))]
    begins = ["griddep_launch()"] if release != "end" else []
    assert sorted(added) == [*begins, "griddep_wait()", "held"]
    wait = lines.index("griddep_wait()")
    assert lines[wait - 1] == "held"
    before, behind = set(lines[:wait]), lines[wait:]
    assert {"b_FIND", "b_LOAD", "b_COPY"} <= before and behind.count("a_READ") == 1
    if release == "end":
        return
    where = lines.index("griddep_launch()")
    assert {
        "begin": lines[where + 1] == "a_FIND" and where == 0,
        "load": lines[where - 1 : where + 2] == ["b_COPY", "griddep_launch()", "held"],
        "wait": lines[where - 1] == "griddep_wait()" and lines[where + 1] == "a_READ",
        "read": (lines[where - 1], lines[where + 1]) == ("b_FIRST", "a_MAKE"),
        "barrier": (lines[where - 1], lines[where + 1]) == ("b_MAKE", "a_COMPUTE"),
    }[release]


@dataclass(frozen=True)
class Phase:
    """A part of a kernel that stays: behind a barrier of its cluster instead of a launch."""

    def in_front_of(self, stage: Stage, hold: Callable[[], list[str]]) -> list[str]:
        return ["cluster_barrier()"] if stage is Stage.WAIT else []


def test_another_wrapper_takes_the_same_body() -> None:
    found = assemble(body(), Phase(), nothing_held)
    assert found.index("cluster_barrier()") == 2 * Stage.WAIT.value - 2
    found.remove("cluster_barrier()")
    assert found == assemble(body(), Launched(), nothing_held)


# --- the kernels of a layer ----------------------------------------------------------------------


def kernels() -> dict[str, Kernel]:
    """Every family of kernels, by their names: rows, parts, spans, tiles, pairs, elements."""
    graphs = (llama_graph(layers=2, context=300), llama_graph(types=Types("q4_0")), feed_forward())
    plans = [driver.compile(g, target="sm_90a", level=n).plan for g in graphs for n in (0, 3)]
    found = {k.name: k for plan in plans for k in plan.kernels}
    pair = replace(kernel_of(with_residual("q5_k", 64)), choice=PAIRS)
    return found | {pair.name: pair}


def text_of(kernel: Kernel, wrapper: Callable[[str], Wrapper] | None = None) -> list[str]:
    """The lines of a kernel's function, with Dependent replaced where a `wrapper` is given."""
    with pytest.MonkeyPatch.context() as patch:
        if wrapper:
            patch.setattr(emitter, "Dependent", wrapper)
        source = emit(kernel).source
    return source.partition("\ndef " + kernel.name)[2].splitlines()


@pytest.fixture(scope="module")
def emitted() -> dict[str, Kernel]:
    return kernels()


def added(lines: list[str], to: list[str]) -> list[str]:
    """What `lines` has beside `to`, which it must have in the same order."""
    found, rest = [], iter(lines)
    for wanted in to:
        for line in rest:
            if line == wanted:
                break
            found.append(line)
        else:
            pytest.fail(f"missing: {wanted}")
    return [*found, *rest]


def is_for_the_wait(line: str) -> bool:
    """Whether a line is the wait, the release, or keeps a register's contents across the wait."""
    name = line.split(" = ", maxsplit=1)[0]
    again = (f"{name} = at({name}, nothing)", "shared = uint32(shared + nothing)")
    place = name in line and line.startswith(f"{name} = uint32(shared + ")
    known = ("griddep_wait()", "griddep_launch()", "nothing = zero()", *again)
    return line in known or place or line.startswith("settle(")


def works_ahead(kernel: Kernel) -> bool:
    """Whether it moves work in front of its wait where it overlaps: older rows, tiles decoded."""
    return "attention_spans" in kernel.region or ".tiles[" in kernel.region


def test_a_launch_that_overlaps_has_the_same_body(emitted: dict[str, Kernel]) -> None:
    """It differs from one that does not by the wait, what is held across it, and the release."""
    apart = set()
    for kernel in emitted.values():
        choice = kernel.choice or default_of(replace(kernel, overlaps=True))
        early = replace(kernel, overlaps=True, choice=choice)
        body, wrapped = text_of(early, lambda _: Launched()), text_of(early)
        more = [line.strip() for line in added(wrapped, body)]
        assert all(map(is_for_the_wait, more)), kernel.name
        assert [more.count(f"griddep_{what}()") for what in ("wait", "launch")] == [1, 1]
        if works_ahead(kernel):
            apart.add(kernel.name.split("_")[0])
        else:
            plain = text_of(replace(early, overlaps=False))
            held = [line.strip() for line in added(body, plain)]
            assert all(line.startswith("settle(") for line in held), kernel.name
    assert apart == {"attention", "matvec", "norm"}


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_moves_one_line(release: str, emitted: dict[str, Kernel]) -> None:
    kernel = next(k for k in emitted.values() if "sum_norm_matvec_rope_kv" in k.name)
    early = replace(kernel, overlaps=True)
    usual = text_of(early)
    moved = text_of(replace(early, choice=replace(default_of(early), release=release)))
    begin = "    griddep_launch()"
    assert [line for line in moved if line != begin] == [line for line in usual if line != begin]
    assert moved.count(begin) == (release != "end")


def test_kernels_go_into_a_phase_as_well(emitted: dict[str, Kernel]) -> None:
    for kernel in emitted.values():
        early = replace(kernel, overlaps=True)
        phase, launched = text_of(early, lambda _: Phase()), text_of(early, lambda _: Launched())
        assert [line for line in phase if line != "    cluster_barrier()"] == launched
        ast.parse("def f" + "\n".join(phase))
