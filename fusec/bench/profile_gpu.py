"""The experiments of `fusec profile` on a GPU."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial

import numpy as np

from fusec.bench.experiment import KernelTime, Measured, Note, firsts, prompt_of, resident
from fusec.bench.gpu import device_times
from fusec.bench.stopwatch import Watch, executables
from fusec.bench.tokens import seconds_per_token
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir.choosing import final_choice
from fusec.ir.plan import Arg, LaunchPlan
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.engine import Engine

RUNS = 5  # of a generation
FEW, MANY = 10, 60  # nodes of a graph that repeats one kernel


def measure(
    compiled: Compiled, tokens: int, _threads: int, note: Note
) -> Generator[Measured, None, None]:
    """All experiments, again and again.

    Generations end at `tokens`; single kernels run in their middle.
    """
    while True:
        yield _measure(compiled, tokens, note)


def _measure(compiled: Compiled, tokens: int, note: Note) -> Measured:
    note("host sampling, eager launches")
    naive = _naive(compiled, tokens)
    engine = compiled.engine()
    if not isinstance(engine, CudaEngine):
        raise FusecError("profiling a GPU needs the CUDA target")
    try:
        engine.stop = frozenset()
        note("tokens")
        prompt = prompt_of(engine.vocabulary)
        token = _token(engine, prompt, tokens)
        naive["captured, host sampling"] = _host_sampled(engine, prompt, tokens)
        device, between = device_times(engine, prompt, tokens)
        bench = _Bench(engine, compiled)
        bench.at(prompt, len(prompt) + tokens // 2)
        note("launches")
        empties, per_kernel = bench.empties()
        note("memory")
        streaming, cached = bench.whole(compiled.plan), bench.whole(resident(compiled.plan))
        note("compute")
        kernels = bench.kernels(per_kernel)
        note("launch by launch")
        launch = bench.launches(kernels)
        return Measured(token, device, between, empties, streaming, cached, launch, kernels, naive)
    finally:
        engine.close()


def _token(engine: Engine, prompt: list[int], tokens: int) -> float:
    seconds_per_token(engine, prompt, tokens)
    return 1e6 * float(np.median([seconds_per_token(engine, prompt, tokens) for _ in range(RUNS)]))


def _host_sampled(engine: Engine, prompt: list[int], tokens: int) -> float:
    """Microseconds a token where logits come to the host, which takes the largest."""
    times = []
    for _ in range(RUNS):
        engine.reset()
        engine.feed(prompt[:-1])
        token = int(np.argmax(engine.step(prompt[-1])))
        start = time.perf_counter()
        for _ in range(tokens):
            token = int(np.argmax(engine.step(token)))
        times.append((time.perf_counter() - start) / tokens)
    return 1e6 * float(np.median(times))


def _naive(compiled: Compiled, tokens: int) -> dict[str, float]:
    """A token of kernels that are launched one by one, sampled here or there."""
    engine = compiled.engine(eager=True)
    engine.stop = frozenset()
    try:
        prompt = prompt_of(engine.vocabulary)
        return {
            "eager": _token(engine, prompt, tokens),
            "eager, host sampling": _host_sampled(engine, prompt, tokens),
        }
    finally:
        engine.close()


class _Bench:
    """Graphs of the plan's launches, of parts of it, and of kernels that stand for them."""

    def __init__(self, engine: CudaEngine, compiled: Compiled) -> None:
        self.engine, self.plan = engine, compiled.plan
        self.workspace = engine.workspace
        workspace = self.workspace
        known = executables(workspace.driver)
        self.watch = Watch(workspace, known)
        self.shapes = {
            name: (kernel.grid, kernel.threads) for name, kernel in compiled.kernels.items()
        }

    def at(self, prompt: list[int], position: int) -> None:
        """Fill the cache up to a position, and stay there."""
        ids = (prompt * (position // len(prompt) + 1))[: position + 1]
        self.engine.reset()
        self.engine.feed(ids[:-1])
        self.workspace.write(Arg("input", "%token"), np.array(ids[-1:], np.int32))
        self.workspace.write(Arg("input", "%pos"), np.array([position], np.int32))
        self.workspace.cache.reach(position, position + 1)

    def whole(self, plan: LaunchPlan) -> float:
        """A token of a plan in one graph, and the way to the next."""
        return self.watch.graph(CudaSession(plan, self.workspace).enqueue)

    def empties(self) -> tuple[float, dict[str, float]]:
        """A token of empty launches of the plan's grids; and one launch of each kernel's.

        They overlap where the plan's launches do. A `final_choice` stands for `advance_best`,
        which takes its place in a token and has its grid.
        """
        data = self.watch.words(0)
        # a kernel that lets the next begin does so even where it did not start early itself
        kind = "early" if self.plan.overlaps else "nothing"
        known = {name: self.watch.function(kind, *shape) for name, shape in self.shapes.items()}
        how = (self.workspace.driver.early(),) if self.plan.overlaps else ()

        def launch(kernel: str, early: bool) -> None:
            self.watch.launch(known[kernel], data, attributes=how if early else ())

        order = [(each.kernel, each.early) for each in self.plan.launches]
        if final_choice(self.plan) is None:
            order.append(("advance", self.plan.overlaps))
        per_kernel = {
            kernel: self.watch.node(
                lambda i, k=kernel: launch(k, self.plan.overlaps and i > 0),  # type: ignore[misc]
                FEW,
                MANY,
            )
            for kernel in {each.kernel for each in self.plan.launches}
        }

        def enqueue(copies: int) -> None:
            for kernel, early in order * copies:
                launch(kernel, early)

        token = self.watch.slope(lambda n: self.watch.graph(lambda: enqueue(n)), 1, 2)
        return token, per_kernel

    def kernels(self, empty: dict[str, float]) -> dict[str, KernelTime]:
        """Every kernel after itself, with the arguments of its first launch."""
        found = {}
        for name, (first, count) in firsts(self.plan).items():
            pointers = [self.workspace.address(arg) for arg in self.plan.launches[first].args]
            alone = self.watch.node(
                lambda i, n=name, p=pointers: self.workspace.launch(  # type: ignore[misc]
                    n, p, self.plan.overlaps and i > 0
                ),
                FEW,
                MANY,
            )
            found[name] = KernelTime(count, alone, empty[name])
        return found

    def launches(self, kernels: dict[str, KernelTime]) -> list[float]:
        """Each launch where it stands in the token: how much longer a graph is that ends with it.

        The first, in front of which there is only the gap, is taken to last as long as alone.
        """
        bound = [
            (
                launch.kernel,
                [self.workspace.address(arg) for arg in launch.args],
                launch.early,
                self.workspace.stretches(launch.prefetch),
            )
            for launch in self.plan.launches
        ]

        def until(end: int) -> None:
            for name, pointers, early, ahead in bound[:end]:
                self.workspace.launch(name, pointers, early)
                self.workspace.prefetch(ahead)

        first = kernels[self.plan.launches[0].kernel].alone
        ends = [partial(until, end) for end in range(1, len(bound) + 1)]
        return [
            first,
            *self.watch.growth(
                ends,
                lambda n: f"a token up to launch {n + 1} ({bound[n][0]})",
                replays=8,
                repeats=3,
            ),
        ]
