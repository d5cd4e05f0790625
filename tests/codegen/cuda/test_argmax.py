"""The index of the largest logit, found by the blocks that make them: whatever their shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen.cuda import control
from fusec.codegen.cuda.candidates import candidates
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.choice import Choice
from fusec.ir.choosing import final_choice
from fusec.ir.plan import Kernel
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.rule import Rule, pattern
from tests.codegen.cuda.one_kernel import fused
from tests.codegen.cuda.twin_session import TwinSession
from tests.random_numbers import random_numbers
from tests.targets import ANY, SPLIT

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(5)
SCALE = 16.0  # of x: an infinite logit comes of a finite weight
X = np.array([[SCALE, 0, 0, 0]])
INFINITE, NAN = np.inf, np.nan


def head(rows: int) -> Graph:
    """Logits that are the matrix's first column times x's first element; and the choice."""
    b = Builder("head")
    logits = b.matvec(b.input("x", (1, 4)), b.weight("w", (rows, 4)), name="logits")
    return b.build(logits, b.argmax(logits, name="next"))


def rows_of(n: int) -> dict[str, np.ndarray]:
    """Logits of every kind an argmax may meet, by what is special about them."""
    numbers = RNG.normal(size=n)
    spread = np.arange(n) % 5
    return {
        "numbers": numbers,
        "ties": RNG.integers(-3, 3, n),
        "all equal": np.full(n, -2.5),
        "zeros of both signs": np.where(spread == 3, 0.0, -0.0),
        "largest last": np.arange(n) - n,
        "masked": np.where(spread == 2, numbers, -INFINITE),
        "all masked": np.full(n, -INFINITE),
        "infinite twice": np.where(spread == 4, INFINITE, numbers),
        "some NaN": np.where(spread < 3, NAN, numbers),
        "NaN, else masked": np.where(spread < 3, NAN, -INFINITE),
        "all NaN": np.full(n, NAN),
    }


def largest(logits: np.ndarray) -> int:
    """NaN counts as -inf."""
    return int(np.argmax(np.where(np.isnan(logits), -INFINITE, logits)))


def choose(graph: Graph, logits: np.ndarray, level: int, **given) -> tuple[TwinSession, dict]:
    weights = np.zeros((logits.size, 4), np.float32)
    weights[:, 0] = np.clip(logits / SCALE, -3e38, 3e38)
    session = TwinSession(graph, {"@w": weights}, level, **given)
    return session, session.step(x=X)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_every_level_chooses_the_first_of_the_largest(rows: int) -> None:
    for what, logits in rows_of(rows).items():
        for level, target in ((0, ANY), (3, ANY), (3, SPLIT)):
            session, found = choose(head(rows), logits, level, target=target)
            kinds = [node.kind for node in session.graph.nodes]
            split = ["matvec_argmax", "argmax_combine"]
            assert kinds == (split if target is SPLIT else ["matvec", "argmax"])
            assert found["next"] == largest(logits), (what, level, target.name)
            assert np.array_equal(found["logits"][0], np.float32(logits), equal_nan=True)


def parts_of(session: TwinSession, name: str = "%next.parts") -> tuple[np.ndarray, np.ndarray]:
    """The best of each part, and where they are."""
    return session.memory[name][0], session.memory[f"{name}.places"][0]


SHAPES = (
    Choice(4), Choice(8, 3), Choice(2, 1, 5), Choice(8, 6, 4), Choice(3, 32, 2), Choice(32, 2, 40),
)  # fmt: skip


@pytest.mark.parametrize("choice", SHAPES, ids=str)
def test_no_shape_changes_the_choice(choice: Choice) -> None:
    rows = 787
    for what, logits in rows_of(rows).items():
        session, found = choose(
            head(rows), logits, 3, target=SPLIT,
            choose=lambda k: choice if "matvec" in k.name else None,
        )  # fmt: skip
        assert found["next"] == largest(logits), what
        best, index = parts_of(session)
        assert not np.isnan(best).any()  # all are written, however few blocks there are
        assert (index < rows).all()
        some = best != -INFINITE
        assert np.array_equal(best[some], logits.astype(np.float32)[index[some]]), what
        assert not index[~some].any()


@pytest.mark.parametrize("rows", [1, 300])
def test_the_token_loop_chooses_what_the_plan_does(rows: int) -> None:
    """From the same parts, whatever the logits: `advance_best` in place of the last launch."""
    for what, logits in rows_of(rows).items():
        session, found = choose(head(rows), logits, 3, target=SPLIT)
        assert final_choice(session.plan) == session.plan.launches[-1]
        best, places = parts_of(session)
        taken, others = np.full(1, 999, np.uint32), [np.zeros(1, np.uint32) for _ in range(3)]
        tokens, ring = np.zeros(2, np.uint32), np.zeros(control.RING, np.uint64)
        kernel = control.advance_best(best.size)
        run_grid(kernel, best, places, taken, *others, tokens, ring)
        good = np.isfinite(logits[largest(logits)])
        assert taken == found["next"] == largest(logits), what
        assert tokens[1] == (taken if good else 0), what
        assert ring[0] & 0xFFFFFFFF == (taken if good else control.NO_TOKEN), what


def test_a_step_does_not_remember_the_one_before() -> None:
    logits = np.arange(40.0)
    session, found = choose(head(40), logits, 3, target=SPLIT)
    assert found["next"] == 39
    assert session.step(x=-X)["next"] == 0


@pytest.mark.parametrize("warps", [8, 32])
def test_the_search_by_parts_can_be_a_kernel_of_its_own(warps: int) -> None:
    """With fewer parts than there would be blocks, a thread takes several elements."""
    b = Builder("alone")
    x = b.input("x", (1, 3001))
    graph = b.build(b.argmax_combine(*b.argmax_parts(x, parts=3, name="parts"), name="next"))
    session = TwinSession(graph, {}, 0, choose=lambda k: Choice(warps))
    assert [kernel.grid for kernel in session.kernels.values()] == [3, 1]
    for what, values in rows_of(3001).items():
        assert session.step(x=values)["next"] == largest(values), what


@pytest.mark.parametrize("warps", [1, 8, 32])
def test_parts_may_come_in_any_order_and_number(warps: int) -> None:
    for parts in (1, 5, 1000):
        b = Builder("parts")
        given = b.input("best", (1, parts)), b.input("places", (1, parts), "i32")
        graph = b.build(b.argmax_combine(*given, name="next"))
        session = TwinSession(graph, {}, 0, choose=lambda k: Choice(warps))
        for top in (2, 1000):
            values = RNG.integers(-top, top, parts)
            index = 2**24 - 7 + RNG.permutation(40_000)[:parts]  # which no f32 holds all of
            found = session.step(best=values, places=index)["next"]
            assert found == index[values == values.max()].min()


def test_elements_are_compared_behind_the_work_on_them() -> None:
    """A lane without a row of its own has a sum and a bias that do not belong together."""
    b = Builder("biased")
    y = b.matvec(b.input("x", (1, 4)), b.weight("w", (90, 4)), name="y")
    z = b.add(b.softcap(y, cap=2.0, name="s"), b.input("bias", (1, 90)), name="z")
    graph = b.build(z, b.argmax_combine(*b.argmax_parts(z, parts=64, name="parts"), name="next"))
    edges = pattern(
        "p -> s, s -> z, z -> b", kept="z", p="matvec", s="softcap", z="add", b="argmax_parts"
    )
    rule = Rule("matvec -> softcap -> add -> argmax_parts => biased", edges)
    weights = np.zeros((90, 4), np.float32)
    weights[:, 0] = RNG.uniform(-2, 2, 90) / SCALE
    for choice in (Choice(8), Choice(8, 3), Choice(2, 4, 5), Choice(1, 16)):
        session = TwinSession(
            graph, {"@w": weights}, 0, (rule,),
            choose=lambda k, c=choice: c if k.name.startswith("biased") else None,
        )  # fmt: skip
        assert [node.kind for node in session.graph.nodes] == ["biased", "argmax_combine"]
        for _ in range(4):
            found = session.step(x=X, bias=RNG.uniform(-2, 2, 90))
            assert found["next"] == found["z"].argmax()


def test_two_matrices_of_one_kernel_have_parts_of_their_own() -> None:
    b = Builder("two")
    x = b.input("x", (1, 4))
    parts = [
        b.argmax_parts(b.matvec(x, b.weight(name, (70, 4))), parts=16, name=f"{name}.parts")
        for name in ("a", "b")
    ]
    graph = fused(b.build(*parts[0], *parts[1]))
    columns = {f"@{name}": np.zeros((70, 4), np.float32) for name in "ab"}
    for values in columns.values():
        values[:, 0] = RNG.permutation(70) / SCALE
    session = TwinSession(graph, columns, 0)
    assert [kernel.grid for kernel in session.kernels.values()] == [18]
    found = session.step(x=X)
    for name in "ab":
        (best,), (places,) = found[f"{name}.parts"], found[f"{name}.parts.places"]
        assert best.max() == 69
        assert places[best.argmax()] == columns[f"@{name}"][:, 0].argmax()


def head_kernel(rows: int, parts: int) -> Kernel:
    target = replace(SPLIT, parts=parts)
    return lower(run_passes(head(rows), passes_of(3), target)[-1].graph, "cuda", 3).kernels[0]


def test_a_block_without_a_part_is_refused() -> None:
    kernel = head_kernel(300, parts=20)
    wanted = f"kernel {kernel.name}: expected a part for each block, found 20 parts and 38 blocks"
    with pytest.raises(FusecError, match=wanted):
        emit(kernel)
    emit(replace(kernel, choice=Choice(16)))


def test_no_candidate_has_more_blocks_than_parts() -> None:
    kernel = head_kernel(700, parts=100)
    found = candidates(kernel)
    assert len(found) > 2
    for choice in found:
        assert emit(replace(kernel, choice=choice)).grid <= 100
    assert len(found) < len(candidates(head_kernel(700, parts=1024)))
