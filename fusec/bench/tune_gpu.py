"""How the search measures on a GPU: whole steps of an engine, one kernel of which is exchanged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from fusec.bench.search import Choices
from fusec.bench.steady import difference
from fusec.bench.variants import Variants
from fusec.codegen.cuda.rows import TOGETHER
from fusec.errors import FusecError
from fusec.ir.plan import GENERATING, ROWS, Arg, LaunchPlan
from fusec.runtime.cuda.driver import Function, Handle
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.session import positions

POSITION = 64  # of the first token that is timed
WARM, STEPS = 4, 32  # replays before the clock starts, and while it runs at most
RUN_US = 8_000.0  # long enough to be told from noise; steps of large models are few
SHARE_REPEATS = 5
GRAPHS = 8  # kept at a time: a search looks at hundreds of choices, most of them once
CONTROL = "feed"  # not advance: tokens come from memory, whatever the plan computes meanwhile


class StepBench:
    """Steps of `width` rows of an engine, timed by the GPU's events.

    `plan`: of such a step, with the names that kernels have in `variants`. A step of one row is one
    of a greedy token; one of a few rows, as drafted tokens take them, makes all logits; one of
    many, as prompts do, makes none.
    Raises FusecError where the context has too few positions.
    """

    def __init__(
        self, engine: CudaEngine, plan: LaunchPlan, width: int, variants: Variants
    ) -> None:
        self.engine, self.width, self.variants = engine, width, variants
        self.workspace, self.whole = engine.workspace, plan
        self.plan = plan if width == 1 else plan.only(set(GENERATING if self.is_few else ()))
        context = positions(plan)
        least = WARM + STEPS + 1 if width == 1 else width
        if context < least:
            raise FusecError(f"tuning needs a context of {least} positions, found {context}")
        self._first = min(POSITION, context - least)
        self._loaded: dict[str, object] = {}
        self._functions: dict[object, Function] = {}
        self._graphs: dict[frozenset[object], Handle] = {}
        self._steps = STEPS

    @property
    def is_few(self) -> bool:
        """Whether a step has so few rows that it goes through the kernels of a step of one."""
        return self.width <= TOGETHER

    def settle(self, choices: Choices) -> None:
        """Find how many steps of these are to be timed together."""
        once = self.measure(choices)
        self._steps = max(4, min(STEPS, int(RUN_US / max(once, 1.0))))

    def measure(self, choices: Choices) -> float:
        """Microseconds a step with those kernels, from one run of several steps."""
        key = frozenset(choices.items())
        graph = self._graphs.pop(key, None)
        if graph is None:
            self._load(choices)
            graph = self._capture(self.plan)
        self._graphs[key] = graph  # the last that was used
        for old in list(self._graphs)[:-GRAPHS]:
            self.workspace.release(self._graphs.pop(old))
        return self._time(graph)

    def share(self, kernel: str, choices: Choices) -> float:
        """Microseconds by which a step is shorter without a kernel's launches; 0 if it is longer.

        What launches in front of others does not only take time: it also makes room for them.
        """
        self._load(choices)
        whole, without = (self._capture(p) for p in (self.plan, _without(self.plan, kernel)))

        def both() -> tuple[float, float]:
            times = [(self._time(whole), self._time(without)) for _ in range(SHARE_REPEATS)]
            more, less = np.median(times, axis=0)
            return float(more), float(less)

        found = difference(both, f"a step beside one without {kernel}", math.inf)
        for graph in (whole, without):
            self.workspace.release(graph)
        return found

    def outputs(self, choices: Choices, count: int) -> bytes:
        """All outputs at the first positions, of a new session that captures those kernels."""
        self._load(choices)
        plan = self.engine.loop.decode.plan if self.width == 1 else self.whole
        session = CudaSession(plan.only(set(GENERATING) & set(plan.outputs)), self.workspace)
        found = []
        for places in self._places(count):
            made = session.step(token=self._tokens(places), pos=places)
            found += [made[name].tobytes() for name in sorted(made)]
        return b"".join(found)

    def _tokens(self, places: np.ndarray) -> np.ndarray:
        """What stands at some positions."""
        found: np.ndarray = (7 * places + 1) % self.engine.vocabulary
        return found.astype(np.int32)

    def _places(self, count: int) -> Iterator[np.ndarray]:
        """Positions of steps, `count` at least if the context has as many."""
        end = min(-(-count // self.width) * self.width, positions(self.whole))
        for first in range(0, end - self.width + 1, self.width):
            yield np.arange(first, first + self.width, dtype=np.int32)

    def _load(self, choices: Choices) -> None:
        for variant in choices.items():
            name, choice = variant
            if variant not in self._functions:
                self._functions[variant] = self.workspace.driver.load(self.variants[variant])
            if self._loaded.get(name) != choice:
                self.workspace.use(self._functions[variant])
                self._loaded[name] = choice

    def _capture(self, plan: LaunchPlan) -> Handle:
        """One step of a plan, captured."""
        session = CudaSession(plan, self.workspace)
        session.prepare(self.width)  # may take memory for logits, which no capture allows
        if self.width > 1:
            return self.workspace.capture(partial(session.enqueue, self.width))

        def enqueue() -> None:
            session.enqueue()
            self.engine.loop.enqueue_control(CONTROL)

        return self.workspace.capture(enqueue)

    def _time(self, graph: Handle) -> float:
        workspace, driver = self.workspace, self.workspace.driver
        places = np.arange(self._first, self._first + self.width, dtype=np.int32)
        workspace.write(Arg("input", "%token"), self._tokens(places))
        workspace.write(Arg("input", "%pos"), places)
        if self.width > 1:
            workspace.write(ROWS, np.array([self.width], np.uint32))
        end = self._first + self.width + WARM + self._steps
        workspace.cache.reach(self._first, min(end, positions(self.whole)))
        for _ in range(WARM):
            driver.replay(graph, workspace.stream)
        start, end = driver.event(), driver.event()
        driver.record(start, workspace.stream)
        for _ in range(self._steps):
            driver.replay(graph, workspace.stream)
        driver.record(end, workspace.stream)
        driver.synchronize(workspace.stream)
        seconds = driver.seconds_between(start, end)
        driver.forget(start)
        driver.forget(end)
        return 1e6 * seconds / self._steps


def _without(plan: LaunchPlan, kernel: str) -> LaunchPlan:
    """The plan less a kernel's launches: a launch behind them follows the one in front of them."""
    first, *rest = (launch for launch in plan.launches if launch.kernel != kernel)
    return replace(plan, launches=(replace(first, early=False), *rest))
