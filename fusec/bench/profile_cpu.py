"""The experiments of `fusec profile` on the CPU.

Launches are kernels run by the team of threads, so what a launch costs is a barrier of the team.
Other programs only ever make a run longer, so every time is the least of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fusec.bench import seconds_per_token
from fusec.bench.profile import KernelTime, Measured, Note, firsts, prompt_of, resident
from fusec.codegen.kernel import KernelSource
from fusec.driver import Compiled, bind, cpu_kernels
from fusec.runtime.cpu.session import CpuSession
from fusec.runtime.engine import Engine

REPEATS = 15
ALONE = 40  # launches of one kernel that follow one another

NOTHING = KernelSource(
    "nothing",
    '''"""Returns at once: what is left is the launch."""

from numba import cfunc, int32, int64, types


@cfunc(types.void(types.CPointer(int64), int32, int32))
def kernel(args, thread, threads):
    return
''',
    0,
)


def measure(compiled: Compiled, tokens: int, threads: int, note: Note) -> Measured:
    """All experiments. Generations end at `tokens`; single kernels run in their middle."""
    model = compiled.model
    assert model is not None and compiled.prefill is not None
    plan = compiled.plan
    plans = (plan, compiled.prefill, compiled.prefill.only(set()), resident(plan))
    kernels = cpu_kernels(compiled.kernels)
    sessions = bind(kernels, plans, model.raw, model.floats, note, threads)
    decode, prefill, absorb, cached = (s for s in sessions if isinstance(s, CpuSession))
    engine = Engine(decode, prefill, absorb, context=compiled.context)
    try:
        prompt = prompt_of(engine.vocabulary)
        note("tokens")
        token = 1e6 * min(seconds_per_token(engine, prompt, tokens) for _ in range(REPEATS))
        note("host")
        between = _host_part(engine, decode, prompt, tokens)
        bench = _Bench(decode)
        for session in (decode, cached):
            _stand(engine, session, prompt, len(prompt) + tokens // 2)
        note("launches")
        empties = bench.run(bench.empty)
        note("memory")
        streaming, hot = bench.alternate(decode.kernels, decode.args, cached.args)
        note("compute")
        found = bench.each(plan.launches)
        note("launch by launch")
        launch = bench.launches()
        return Measured(token, streaming, between, empties, streaming, hot, launch, found)
    finally:
        decode.team.close()


def _host_part(engine: Engine, decode: CpuSession, prompt: list[int], tokens: int) -> float:
    """Microseconds a token of all but the kernels: a generation by a team that does nothing."""
    team = decode.team
    decode.team = _Idle()  # type: ignore[assignment]
    try:
        return 1e6 * min(seconds_per_token(engine, prompt, tokens) for _ in range(REPEATS))
    finally:
        decode.team = team


class _Idle:
    """Stands in for a team."""

    def run(self, kernels: Any, args: Any) -> None:
        """Nothing."""


def _stand(engine: Engine, session: CpuSession, prompt: list[int], position: int) -> None:
    """Fill the cache up to a position, and leave a session's inputs there."""
    ids = (prompt * (position // len(prompt) + 1))[:position]
    engine.reset()
    engine.feed(ids)
    session.step(token=np.array(ids[-1:], np.int32), pos=np.array([position], np.int32))


class _Bench:
    """Runs of a session's table of launches, of parts of it, and of empty kernels."""

    def __init__(self, session: CpuSession) -> None:
        from fusec.codegen.cpu.build import build

        self.session, self.team = session, session.team
        address = build((NOTHING,))["nothing"]["kernel"]
        self.empty = np.full_like(session.kernels, address)

    def run(self, kernels: Any, args: Any = None) -> float:
        """Microseconds of a table of launches."""
        given = self.session.args if args is None else args
        return _least(lambda: self.team.run(kernels, given))

    def alternate(self, kernels: Any, *tables: Any) -> list[float]:
        """`run` for several tables of arguments in turn, so that all see the same machine."""
        runs = [[self._once(kernels, args) for args in tables] for _ in range(2 * REPEATS)]
        return [min(times) for times in zip(*runs, strict=True)]

    def _once(self, kernels: Any, args: Any) -> float:
        self.team.run(kernels, args)  # once to leave its own data in the caches
        start = time.perf_counter()
        self.team.run(kernels, args)
        return 1e6 * (time.perf_counter() - start)

    def each(self, launches: Any) -> dict[str, KernelTime]:
        """Every kernel after itself, with the arguments of its first launch."""
        plan = self.session.plan
        found = {}
        empty = self.run(self.empty[:1].repeat(10 * ALONE), self._same(0, 10 * ALONE)) / 10 / ALONE
        for name, (first, count) in firsts(plan).items():
            table = self.session.kernels[first : first + 1].repeat(ALONE)
            alone = self.run(table, self._same(first, ALONE)) / ALONE
            found[name] = KernelTime(count, alone, empty)
        return found

    def launches(self) -> list[float]:
        """Each launch where it stands in the token, one call of the team each.

        What such a call takes for an empty launch is taken off.
        """
        one = self.session.kernels, self.empty
        sweeps = [[self._sweep(table) for table in one] for _ in range(REPEATS)]
        real, empty = (np.min([pair[k] for pair in sweeps], axis=0) for k in (0, 1))
        return [float(us) for us in np.maximum(real - empty, 0.0)]

    def _sweep(self, kernels: Any) -> list[float]:
        times = []
        for i in range(len(kernels)):
            start = time.perf_counter()
            self.team.run(kernels[i : i + 1], self.session.args[i : i + 1])
            times.append(1e6 * (time.perf_counter() - start))
        return times

    def _same(self, row: int, count: int) -> Any:
        return np.repeat(self.session.args[row : row + 1], count, axis=0)


def _least(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)
