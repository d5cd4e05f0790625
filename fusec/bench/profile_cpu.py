"""The experiments of `fusec profile` on the CPU.

Launches are kernels run by the team of threads, so what a launch costs is a barrier of the team.
Other programs only ever make a run longer, so every time is the least of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from fusec.backends.cpu import bind
from fusec.bench.experiment import KernelTime, Measured, Note, firsts, prompt_of, resident
from fusec.codegen.kernel import KernelSource
from fusec.driver import Compiled
from fusec.runtime.cpu.session import CpuSession
from fusec.runtime.engine import Engine

ROUNDS = 5  # of all experiments, each in its turn: what disturbs one round spares another
TIMES = 4  # that a round repeats each
NEAR = 6  # tokens on both sides of the middle that stand for it
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


def measure(
    compiled: Compiled, tokens: int, threads: int, note: Note
) -> Generator[Measured, None, None]:
    """All experiments, then the same with the best of more and more rounds.

    Generations end at `tokens`; single kernels run in their middle.
    """
    model = compiled.model
    assert model is not None and compiled.prefill is not None
    plan = compiled.plan
    plans = (plan, compiled.prefill, compiled.prefill.only(set()), resident(plan))
    sessions = bind(compiled.kernels, plans, model.raw, note, threads)
    decode, prefill, absorb, cached = sessions
    engine = Engine(decode, prefill, absorb, context=compiled.context)
    try:
        prompt = prompt_of(engine.vocabulary)
        bench = _Bench(decode, cached)
        rounds: list[dict[str, float]] = []
        while True:
            for number in range(ROUNDS):
                note(f"round {number + 1} of {ROUNDS}")
                token = _token(engine, prompt, tokens)
                between = _host_part(engine, decode, prompt, tokens)
                for session in (decode, cached):
                    _stand(engine, session, prompt, len(prompt) + tokens // 2)
                rounds.append({"token": token, "between": between} | bench.round())
            best = {key: min(found[key] for found in rounds) for key in rounds[0]}
            kernels_found = {
                name: KernelTime(count, best[name], best["empty"])
                for name, (_, count) in firsts(plan).items()
            }
            yield Measured(
                best["token"],
                best["streaming"],
                best["between"],
                best["empties"],
                best["streaming"],
                best["resident"],
                bench.launches(best["empty"]),
                kernels_found,
            )
    finally:
        engine.close()
        cached.close()


def _token(engine: Engine, prompt: list[int], tokens: int) -> float:
    """Microseconds of the quickest token near the middle of a generation, as the caller sees it."""
    found = []
    for _ in range(2):
        made = [time.perf_counter() for _ in engine.tokens(prompt, tokens)]
        low = max(1, tokens // 2 - NEAR)
        found += [made[i] - made[i - 1] for i in range(low, min(tokens, low + 2 * NEAR))]
    return 1e6 * min(found)


def _host_part(engine: Engine, decode: CpuSession, prompt: list[int], tokens: int) -> float:
    """Microseconds a token of all but the kernels: a generation by a team that does nothing."""
    team = decode.team
    decode.team = _Idle()  # type: ignore[assignment]
    try:
        return _token(engine, prompt, tokens)
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

    def __init__(self, session: CpuSession, cached: CpuSession) -> None:
        from fusec.codegen.cpu.build import build  # loads llvmlite, which the CLI's help spares

        self.session, self.cached, self.team = session, cached, session.team
        address = build((NOTHING,))["nothing"]["kernel"]
        self.empty = np.full_like(session.kernels, address)
        self.sweeps: list[list[list[float]]] = []

    def round(self) -> dict[str, float]:
        """Every experiment once; kernels under their names, back to back with themselves."""
        kernels, args = self.session.kernels, self.session.args
        many = 10 * ALONE
        found = {
            "streaming": self.run(kernels, args),
            "resident": self.run(kernels, self.cached.args),
            "empties": self.run(self.empty, args),
            "empty": self.run(self.empty[:1].repeat(many), self._same(0, many)) / many,
        }
        for name, (first, _) in firsts(self.session.plan).items():
            table = kernels[first : first + 1].repeat(ALONE)
            found[name] = self.run(table, self._same(first, ALONE)) / ALONE
        return found

    def run(self, kernels: Any, args: Any) -> float:
        """Microseconds of a table of launches."""
        return _least(lambda: _seconds(lambda: self.team.run(kernels, args)))

    def launches(self, empty: float) -> list[float]:
        """Each launch where it stands in the token, one call of the team each.

        What such a call takes for an empty kernel is taken off, and a launch's `empty` put back.
        """
        tables = self.session.kernels, self.empty
        self.sweeps += [[self._sweep(table) for table in tables] for _ in range(ROUNDS * TIMES)]
        real, call = (np.min([pair[k] for pair in self.sweeps], axis=0) for k in (0, 1))
        return [float(us) for us in np.maximum(real - call, 0.0) + empty]

    def _sweep(self, kernels: Any) -> list[float]:
        args = self.session.args
        return [
            1e6 * _seconds(lambda i=i: self.team.run(kernels[i : i + 1], args[i : i + 1]))  # type: ignore[misc]
            for i in range(len(kernels))
        ]

    def _same(self, row: int, count: int) -> Any:
        return np.repeat(self.session.args[row : row + 1], count, axis=0)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _least(seconds: Callable[[], float]) -> float:
    """Microseconds of the quickest of several, after one to warm up."""
    seconds()
    return 1e6 * min(seconds() for _ in range(TIMES))
