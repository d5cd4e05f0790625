"""Timing kernels and graphs on the GPU by its own events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from fusec.backends import cuda
from fusec.bench.steady import NOISE, difference
from fusec.codegen.cuda import microbench
from fusec.codegen.cuda.arch import arch_for
from fusec.runtime.cuda.driver import Driver, Executable, Function, Handle
from fusec.runtime.cuda.memory import Memory
from fusec.runtime.cuda.workspace import Workspace

REPEATS = 9


def executables(driver: Driver) -> dict[str, Executable]:
    """The measuring kernels for this GPU, compiled or from the cache."""
    arch = arch_for(*driver.capability).name
    kernels = microbench.kernels(arch)
    return cuda.executables(kernels, cuda.build(kernels, arch))


class Stopwatch:
    """Times what is put on a stream. All results are medians, in microseconds."""

    def __init__(
        self, driver: Driver, stream: Handle, memory: Memory, kernels: Mapping[str, Executable]
    ) -> None:
        self.driver, self.stream, self.memory = driver, stream, memory
        self.kernels = kernels
        self._loaded: dict[str, Function] = {}

    def function(self, name: str, grid: int = 1, threads: int | None = None) -> Function:
        """A measuring kernel with a grid and, if not its own, a block size."""
        if name not in self._loaded:
            self._loaded[name] = self.driver.load(self.kernels[name])
        found = self._loaded[name]
        return replace(found, grid=grid, threads=threads or found.threads)

    def launch(self, function: Function, *pointers: int, attributes: Sequence[Any] = ()) -> None:
        """Enqueue a kernel."""
        self.driver.launch(function, pointers, self.stream, attributes)

    def words(self, *values: int) -> int:
        """Words on the device: the `params` of a kernel."""
        return self.memory.upload(np.array(values, np.uint32), "parameters")

    def once(self, enqueue: Callable[[], None], repeats: int = REPEATS) -> float:
        """What `enqueue` takes on the stream, after one run to warm up."""
        driver, times = self.driver, []
        for _ in range(repeats + 1):
            start, end = driver.event(), driver.event()
            driver.record(start, self.stream)
            enqueue()
            driver.record(end, self.stream)
            driver.synchronize(self.stream)
            times.append(driver.seconds_between(start, end))
            driver.forget(start)
            driver.forget(end)
        return 1e6 * statistics.median(times[1:])

    def graph(
        self, enqueue: Callable[[], None], replays: int = 10, repeats: int = REPEATS
    ) -> float:
        """What one replay of `enqueue`, captured, takes if `replays` of them follow one another."""
        captured = self.capture(enqueue)

        def replay() -> None:
            for _ in range(replays):
                self.driver.replay(captured, self.stream)

        try:
            return self.once(replay, repeats) / replays
        finally:
            self.release(captured)

    def growth(
        self, graphs: Sequence[Callable[[], None]], what: Callable[[int], str], **how: int
    ) -> list[float]:
        """How much longer one replay of each graph takes than one of the graph before it.

        `what(n)` names the n-th of them, should it stay shorter. `how`: see `graph`.
        """

        def both(n: int) -> tuple[float, float]:
            return self.graph(graphs[n], **how), self.graph(graphs[n - 1], **how)

        times = [self.graph(enqueue, **how) for enqueue in graphs]
        return [
            after - before
            if after >= before
            else difference(partial(both, n), f"{what(n)} beside {what(n - 1)}")
            for n, (before, after) in enumerate(pairwise(times), start=1)
        ]

    def capture(self, enqueue: Callable[[], None]) -> Handle:
        """What `enqueue` puts on the stream, as a graph."""
        return self.driver.capture(self.stream, enqueue)

    def release(self, graph: Handle) -> None:
        """Give back a graph."""
        self.driver.release(graph)

    def node(self, enqueue: Callable[[int], None], few: int = 40, many: int = 240) -> float:
        """What one more node costs in a captured graph; `enqueue(i)` launches the i-th."""
        return self.slope(lambda count: self.graph(lambda: _all(enqueue, count)), few, many)

    def turn(self, enqueue: Callable[[int], None], few: int, many: int) -> float:
        """What one more turn of a kernel's loop costs; `enqueue(params)` launches it."""

        def once(count: int) -> float:
            params = self.words(count)
            return self.once(lambda: enqueue(params))

        return self.slope(once, few, many)

    def slope(self, us: Callable[[int], float], few: int, many: int, noise: float = NOISE) -> float:
        """What one more of something costs, `us(count)` being the time of so many."""

        def both() -> tuple[float, float]:
            less, more = us(few), us(many)
            return more, less

        what = f"{many} of what is measured beside {few}"
        return difference(both, what, noise) / (many - few)


class Watch(Stopwatch):
    """Captures as a workspace does, with what runs beside the launches."""

    def __init__(self, workspace: Workspace, kernels: Mapping[str, Executable]) -> None:
        super().__init__(workspace.driver, workspace.stream, workspace.memory, kernels)
        self.capture, self.release = workspace.capture, workspace.release  # type: ignore[method-assign]


def _all(enqueue: Callable[[int], None], count: int) -> None:
    for i in range(count):
        enqueue(i)
