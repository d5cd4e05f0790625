"""One engine, several callers: threads, forked processes, and those who come after the end."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusec
from fusec import driver
from fusec.codegen.cpu.build import build_team
from fusec.errors import FusecError
from fusec.runtime.cpu.team import Team
from fusec.runtime.cuda.driver import Driver
from fusec.runtime.engine import Engine
from fusec.runtime.session import Session
from tests.runtime.cuda.machine import CONTEXT, Machine, compiled_for_a_gpu

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def compiled(tiny_model: Path) -> fusec.Compiled:
    return driver.compile(tiny_model, context=CONTEXT)


@pytest.fixture(params=["cpu", "cuda"])
def engine(
    request: pytest.FixtureRequest, compiled: fusec.Compiled, tiny_model: Path
) -> Iterator[Engine]:
    """On the CPU, and over a driver without a GPU."""
    if request.param == "cpu":
        made = compiled.engine(threads=2)
    else:
        made = Machine(compiled_for_a_gpu(tiny_model)).engine()
    made.stop = frozenset()
    yield made
    made.close()


def in_thread(work: Callable[[], Any]) -> Any:
    """The work's result, or what it raised, from another thread that then ends."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert found, "the thread hangs"
    return found[0]


class Other:
    """A thread that lives on between the calls it is asked to make."""

    def __enter__(self) -> Other:
        self._asked, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._work: Callable[[], Any] | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._work = None
        self._asked.release()
        self._thread.join(30)

    def call(self, work: Callable[[], Any]) -> Any:
        self._work = work
        self._asked.release()
        assert self._done.acquire(timeout=30), "the thread hangs"
        return self._found

    def _serve(self) -> None:
        while self._asked.acquire() and self._work is not None:
            try:
                self._found: Any = self._work()
            except Exception as error:
                self._found = error
            self._done.release()


class Held:
    """A session whose next step waits in the middle until it is let go."""

    def __init__(self, session: Session) -> None:
        self._step = session.step
        self.inside, self.go = threading.Event(), threading.Event()
        session.step = self.step  # type: ignore[method-assign]

    def step(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        self.inside.set()
        assert self.go.wait(30)
        return self._step(**inputs)


def used_elsewhere(found: Any) -> bool:
    return isinstance(found, FusecError) and "used for something else" in str(found)


# --- threads -------------------------------------------------------------------------------------


def test_logits_of_two_threads_take_turns(engine: Engine) -> None:
    prompts = [1, 2, 3, 4], [9, 8, 7]
    wanted = [engine.logits(prompt) for prompt in prompts]
    found: list[Any] = [None, None]

    def ask(i: int) -> None:
        found[i] = [engine.logits(prompts[i]).tobytes() for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[w.tobytes()] * 5 for w in wanted]


@pytest.mark.parametrize("use", ["logits", "reset", "close", "generate"])
def test_a_call_waits_for_the_one_that_is_under_way(compiled: fusec.Compiled, use: str) -> None:
    engine = compiled.engine(threads=1)
    uses: dict[str, Callable[[], Any]] = {
        "logits": lambda: engine.logits([5, 6]),
        "reset": engine.reset,
        "close": engine.close,
        "generate": lambda: list(engine.tokens([5], 2)),
    }
    wanted = engine.logits([3])[0].tobytes()
    engine.reset()
    held = Held(engine.decode)
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(engine.step(3).tobytes()))
    first.start()
    assert held.inside.wait(30)
    second = threading.Thread(target=lambda: results.append(uses[use]()))
    second.start()
    second.join(0.02)
    assert second.is_alive()
    assert results == []
    held.go.set()
    first.join(30)
    second.join(30)
    assert not second.is_alive()
    assert results[0] == wanted
    engine.close()


def test_a_generation_does_not_survive_another_threads_call(engine: Engine) -> None:
    wanted = list(engine.tokens([5, 6], 6))
    for disturb in (
        lambda: engine.logits([1, 2]),
        lambda: list(engine.tokens([9], 3)),
        engine.reset,
    ):
        generation = engine.tokens([5, 6], 6)
        assert [next(generation), next(generation)] == wanted[:2]
        in_thread(disturb)
        with pytest.raises(FusecError, match="used for something else during a generation"):
            list(generation)
        assert list(generation) == []
    assert list(engine.tokens([5, 6], 6)) == wanted


def test_a_generation_under_way_is_finished_token_by_token(compiled: fusec.Compiled) -> None:
    """Another thread's call, made while a token is computed, comes behind that token."""
    with compiled.engine(threads=1) as engine:
        wanted, after = list(engine.tokens([5, 6], 4)), engine.logits([7]).tobytes()
        generation = engine.tokens([5, 6], 4)
        first = next(generation)
        held = Held(engine.decode)
        made: list[int] = []
        drawn = threading.Thread(target=lambda: made.append(next(generation)))
        drawn.start()
        assert held.inside.wait(30)
        answers: list[bytes] = []
        asked = threading.Thread(target=lambda: answers.append(engine.logits([7]).tobytes()))
        asked.start()
        held.go.set()
        drawn.join(30)
        asked.join(30)
        assert [first, *made] == wanted[:2]
        assert answers == [after]
        with pytest.raises(FusecError, match="used for something else"):
            next(generation)


def test_a_generation_may_be_drawn_by_one_thread_after_another(engine: Engine) -> None:
    wanted = list(engine.tokens([5, 6], 5))
    generation = engine.tokens([5, 6], 5)
    assert [in_thread(lambda: next(generation)) for _ in range(5)] == wanted


def test_steps_of_two_threads_are_not_mixed(engine: Engine) -> None:
    wanted = engine.logits([1, 2])[1].tobytes()
    engine.reset()
    engine.step(1)
    with Other() as other:
        for disturb in (lambda: engine.step(9), lambda: engine.feed([9])):
            assert used_elsewhere(other.call(disturb))
        assert engine.step(2).tobytes() == wanted  # as if nobody had asked
        other.call(engine.reset)
        engine.step(1)  # an empty cache is anybody's
        assert used_elsewhere(other.call(lambda: engine.step(2)))
        other.call(engine.reset)
        other.call(lambda: engine.feed([1]))
        with pytest.raises(FusecError, match="used for something else by another thread"):
            engine.step(2)
        assert other.call(lambda: engine.step(2).tobytes()) == wanted


def test_what_a_thread_that_has_ended_began_can_be_gone_on_with(engine: Engine) -> None:
    wanted = engine.logits([1, 2])[1].tobytes()
    engine.reset()
    in_thread(lambda: engine.feed([1]))
    assert engine.step(2).tobytes() == wanted


def test_a_call_inside_of_a_call_is_refused(compiled: fusec.Compiled) -> None:
    """As a signal handler makes it, which would wait for the call that it interrupts."""
    with compiled.engine(threads=1) as engine:
        step, refused = engine.decode.step, []

        def interrupted(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            for use in (engine.close, engine.reset, lambda: engine.step(1)):
                with pytest.raises(FusecError, match="the engine is busy with another call") as e:
                    use()
                refused.append(e)
            return step(**inputs)

        engine.decode.step = interrupted  # type: ignore[method-assign]
        engine.step(1)
        assert len(refused) == 3


def test_steps_of_a_session_take_turns_and_give_copies(compiled: fusec.Compiled) -> None:
    with compiled.engine(threads=1) as engine:

        def step(token: int) -> np.ndarray:
            given = {"token": np.array([token], np.int32), "pos": np.zeros(1, np.int32)}
            return engine.decode.step(**given)["logits"]

        first = step(1)
        kept = first.tobytes()
        assert in_thread(lambda: step(2)).tobytes() != kept
        assert first.tobytes() == kept


# --- processes -----------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> None:
    """Run it in a forked child, which must come to its end well and soon."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        signal.alarm(30)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refuses_everything(engine: Engine, message: str) -> None:
    inputs = {"token": np.zeros(1, np.int32), "pos": np.zeros(1, np.int32)}
    for use in (
        lambda: engine.step(1),
        lambda: engine.feed([1]),
        lambda: engine.logits([1]),
        lambda: engine.tokens([1], 1),
        engine.reset,
        lambda: engine.decode.step(**inputs),
    ):
        with pytest.raises(FusecError, match=message):
            use()
    engine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestForked:
    def test_a_child_is_refused_at_once(self, engine: Engine) -> None:
        wanted = list(engine.tokens([1, 2], 6))
        generation = engine.tokens([1, 2], 6)
        next(generation)

        def child() -> None:
            refuses_everything(engine, "was made before this process was forked")
            with pytest.raises(FusecError, match="forked"):
                next(generation)

        in_child(child)
        assert list(generation) == wanted[1:]

    def test_a_child_is_refused_whatever_its_parent_does(self, compiled: fusec.Compiled) -> None:
        engine = compiled.engine(threads=2)
        held = Held(engine.decode)
        busy = threading.Thread(target=lambda: engine.step(1))
        busy.start()
        assert held.inside.wait(30)

        def child() -> None:
            engine.decode.step = held._step  # type: ignore[method-assign]
            refuses_everything(engine, "forked")

        in_child(child)
        held.go.set()
        busy.join(30)
        engine.close()

    def test_a_child_can_make_its_own(self, compiled: fusec.Compiled) -> None:
        engine = compiled.engine(threads=2)
        wanted = list(engine.tokens([1, 2], 6))

        def child() -> None:
            nonlocal engine
            with compiled.engine(threads=2) as own:
                assert list(own.tokens([1, 2], 6)) == wanted
            del engine  # nobody closed it, and nothing waits for its threads

        in_child(child)
        engine.close()

    def test_a_team_says_so_too(self) -> None:
        team = Team(2, build_team())

        def child() -> None:
            with pytest.raises(FusecError, match="the thread team was made before this process"):
                team.run(np.zeros(0, np.int64), np.zeros((0, 3), np.int64))
            team.close()

        in_child(child)
        team.close()

    def test_the_gpu_stays_with_the_parent(self, tiny_model: Path) -> None:
        machine = Machine(compiled_for_a_gpu(tiny_model))
        before = len(machine.api.log)

        def child() -> None:
            machine.engine().close()
            with pytest.raises(FusecError, match="CUDA was used before this process was forked"):
                Driver(machine.api)
            assert len(machine.api.log) == before

        in_child(child)
        machine.engine().close()
        assert not machine.api.buffers


# --- the end -------------------------------------------------------------------------------------


def test_a_closed_engine_says_so(engine: Engine) -> None:
    generation = engine.tokens([1], 5)
    next(generation)
    engine.close()
    refuses_everything(engine, "is closed")
    with pytest.raises(FusecError, match="the engine is closed"):
        next(generation)
    engine.close()


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("fusec-")]


def test_closing_gives_everything_back(compiled: fusec.Compiled) -> None:
    before = set(workers())
    with compiled.engine(threads=4) as engine:
        kept = engine.step(1)
        copy = kept.copy()
        mine = set(workers()) - before
        assert len(mine) == 3
        tasks = [f"/proc/self/task/{t.native_id}" for t in mine]
    assert set(workers()) == before
    assert not any(os.path.exists(task) for task in tasks)
    assert kept.tobytes() == copy.tobytes()
    for session in (engine.decode, engine.prefill, engine.absorb):
        held = [v for v in vars(session).values() if isinstance(v, np.ndarray)]
        assert sum(array.nbytes for array in held) == 0
        assert not any(v for v in vars(session).values() if isinstance(v, dict) and "%pos" not in v)


def test_closing_a_session_ends_those_that_share_its_threads(compiled: fusec.Compiled) -> None:
    engine = compiled.engine(threads=2)
    engine.absorb.close()
    for use in (lambda: engine.step(1), lambda: engine.logits([1]), lambda: engine.feed([1])):
        with pytest.raises(FusecError, match="closed"):
            use()
    engine.close()
    engine.absorb.close()


def test_a_session_that_cannot_be_bound_leaves_no_threads() -> None:
    b = fusec.Builder("toy")
    graph = b.build(b.matvec(b.input("x", (1, 32)), b.weight("w", (16, 32))))
    compiled, before = fusec.compile(graph, level=0), len(workers())
    for wrong in ({}, {"w": np.zeros((32, 16), np.float32)}, {"w": np.zeros((16, 32))}):
        with pytest.raises(FusecError, match=r"toy: .*weight @w") as caught:
            compiled.session(wrong, threads=3)
        del caught
        assert len(workers()) == before
    with compiled.session({"w": np.ones((16, 32), np.float32)}, threads=3) as session:
        x = np.ones((1, 32), np.float32)
        (found,) = session.step(x=x).values()
    assert found.tolist() == [[32.0] * 16]
    assert len(workers()) == before
    with pytest.raises(FusecError, match="the session is closed"):
        session.step(x=x)
    session.close()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look at")
def test_a_process_that_loads_again_and_again_keeps_its_size(compiled: fusec.Compiled) -> None:
    def load() -> None:
        with compiled.engine(threads=2) as engine:
            list(engine.tokens([1, 2], 3))

    def size() -> tuple[int, int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        maps = Path("/proc/self/maps").read_text().count("\n")
        return pages * os.sysconf("SC_PAGE_SIZE"), maps, len(os.listdir("/proc/self/task"))

    for _ in range(5):
        load()
    before = size()
    for _ in range(20):
        load()
    after = size()
    assert after[0] - before[0] < 4 << 20
    assert after[1] - before[1] < 10  # the code of 20 times as many kernels would be hundreds
    assert after[2] <= before[2]
