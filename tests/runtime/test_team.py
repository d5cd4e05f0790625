"""The thread team: order of launches, barriers, sleeping and leaving."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numba import cfunc, types

from fusec.codegen.cpu.build import build_team
from fusec.codegen.cpu.pointers import ptr_i64
from fusec.errors import FusecError
from fusec.runtime.cpu import team as team_module


def Team(threads: int) -> team_module.Team:
    return team_module.Team(threads, build_team())


KERNEL = types.void(types.CPointer(types.int64), types.int32, types.int32)
WIDTH = 4


@cfunc(KERNEL)
def neighbours(args, thread, threads):
    """to[i] = 3 * from[i] + from[i + 1] for this thread's share; addresses and size in args."""
    source, target, n = ptr_i64(args[0]), ptr_i64(args[1]), args[2]
    for i in range(n * thread // threads, n * (thread + 1) // threads):
        target[i] = source[i] * 3 + source[(i + 1) % n] + args[3]


@cfunc(KERNEL)
def count(args, thread, threads):
    """Every thread adds what it sees to its own counter."""
    ptr_i64(args[0])[16 * thread] += threads


def chain(launches: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Launches that bounce between two rows of int64[2, n], each needing all of the one before."""
    data = np.zeros((2, n), np.int64)
    data[0] = np.arange(n)
    kernels = np.full(launches, neighbours.address, np.int64)
    args = np.zeros((launches, WIDTH), np.int64)
    for k in range(launches):
        args[k] = data[k % 2].ctypes.data, data[1 - k % 2].ctypes.data, n, k
    return data, kernels, args


def expected(launches: int, n: int, runs: int = 1) -> np.ndarray:
    x = np.arange(n, dtype=np.int64)
    with np.errstate(over="ignore"):
        for k in range(launches * runs):
            x = x * 3 + np.roll(x, -1) + k % launches
    return x


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_chain_of_launches_runs_in_order(threads: int) -> None:
    data, kernels, args = chain(4000, 9)
    with Team(threads) as team:
        team.run(kernels, args)
    assert np.array_equal(data[0], expected(4000, 9))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_many_short_runs(threads: int) -> None:
    data, kernels, args = chain(2, 7)
    with Team(threads) as team:
        for _ in range(500):
            team.run(kernels, args)
    assert np.array_equal(data[0], expected(2, 7, runs=500))


@cfunc(KERNEL)
def slow_start(args, thread, threads):
    """Part 0 works for a while, the others have nothing to do."""
    if thread == 0:
        x = np.uint64(args[1])
        for _ in range(args[2]):
            x ^= x << np.uint64(13)
            x ^= x >> np.uint64(7)
            x ^= x << np.uint64(17)
        ptr_i64(args[0])[0] = np.int64(x)


def test_parts_of_threads_that_do_not_come_are_done_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if workers had lost their cores for good: the caller alone makes the same."""
    monkeypatch.setattr(team_module, "_worker", lambda *_: None)
    data, kernels, args = chain(40, 9)
    with Team(3) as team:
        runner = threading.Thread(target=team.run, args=(kernels, args), daemon=True)
        runner.start()
        runner.join(30)
        assert not runner.is_alive()
    assert np.array_equal(data[0], expected(40, 9))


def test_who_waits_for_long_sleeps() -> None:
    """The team uses one core's time, not three, while one thread, any of them, does something."""
    result = np.zeros(1, np.int64)
    args = np.array([[result.ctypes.data, 1, 100_000_000, 0]], np.int64)
    kernels = np.array([slow_start.address])
    with Team(3) as team:
        before, start = time.process_time(), time.perf_counter()
        team.run(kernels, args)
        passed, all_threads = time.perf_counter() - start, time.process_time() - before
    assert all_threads < 1.5 * passed + 0.02


def test_without_futex_threads_sleep_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_module, "FUTEX_NUMBERS", {})
    monkeypatch.setattr(team_module, "IDLE_SECONDS", 0.0)
    data, kernels, args = chain(400, 9)
    with Team(3) as team:
        for _ in range(3):
            team.run(kernels, args)
            before = time.process_time()
            time.sleep(0.05)
            assert time.process_time() - before < 0.02
    assert np.array_equal(data[0], expected(400, 9, runs=3))


def test_workers_sleep_and_wake() -> None:
    counters = np.zeros(64, np.int64)
    args = np.full((1, WIDTH), counters.ctypes.data, np.int64)
    kernels = np.array([count.address])
    with Team(3) as team:
        for _ in range(5):
            team.run(kernels, args)
            time.sleep(0.02)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.1
        team.run(kernels, args)
    assert counters[::16].tolist() == [18, 18, 18, 0]


def test_runs_at_the_border_of_sleep() -> None:
    """Pauses around the idle time hit workers that are just falling asleep."""
    counters = np.zeros(64, np.int64)
    args = np.full((1, WIDTH), counters.ctypes.data, np.int64)
    kernels = np.array([count.address])
    with Team(2) as team:
        for i in range(300):
            team.run(kernels, args)
            until = time.perf_counter() + 5e-6 * (i % 300)
            while time.perf_counter() < until:
                pass
    assert counters[::16].tolist() == [600, 600, 0, 0]


def test_runs_from_two_python_threads_take_turns() -> None:
    counters = np.zeros(64, np.int64)
    args = np.full((3, WIDTH), counters.ctypes.data, np.int64)
    kernels = np.full(3, count.address)
    with Team(2) as team:

        def work() -> None:
            for _ in range(100):
                team.run(kernels, args)

        others = [threading.Thread(target=work) for _ in range(2)]
        for other in others:
            other.start()
        for other in others:
            other.join()
    assert counters[::16].tolist() == [1200, 1200, 0, 0]


def test_an_empty_list_is_a_run() -> None:
    with Team(2) as team:
        team.run(np.zeros(0, np.int64), np.zeros((0, WIDTH), np.int64))


def test_close_ends_the_threads() -> None:
    before = threading.active_count()
    team = Team(3)
    assert threading.active_count() == before + 2
    team.close()
    team.close()
    assert threading.active_count() == before
    with pytest.raises(FusecError, match="closed"):
        team.run(np.zeros(0, np.int64), np.zeros((0, WIDTH), np.int64))


def test_a_team_nobody_holds_ends() -> None:
    before = threading.active_count()
    team = Team(2)
    del team
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_an_impossible_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(FusecError, match=f"found {threads}"):
        Team(threads)


def test_malformed_tables_are_refused() -> None:
    with Team(1) as team:
        with pytest.raises(FusecError, match="int32"):
            team.run(np.zeros(1, np.int32), np.zeros((1, 2), np.int64))
        with pytest.raises(FusecError, match="equal length"):
            team.run(np.zeros(2, np.int64), np.zeros((1, 2), np.int64))
        with pytest.raises(FusecError, match="contiguous"):
            team.run(np.zeros(2, np.int64), np.zeros((2, 4), np.int64)[:, ::2])


@pytest.mark.slow
def test_the_interpreter_exits_with_a_team_open() -> None:
    code = "from tests.runtime.test_team import Team; t = Team(3); print('made')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "made\n", "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupts_leave_the_team_usable(request: pytest.FixtureRequest) -> None:
    # the system's alarm: a timer of Python's would be interrupted itself, while it starts
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGALRM, before))
    counters = np.zeros(64, np.int64)
    args = np.full((2, WIDTH), counters.ctypes.data, np.int64)
    kernels = np.full(2, count.address)
    with Team(2) as team:
        for i in range(20):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.001 * (i % 5))
                while True:
                    team.run(kernels, args)
                    time.sleep(0)
        counters[:] = 0
        team.run(kernels, args)
    assert counters[::16].tolist() == [4, 4, 0, 0]
