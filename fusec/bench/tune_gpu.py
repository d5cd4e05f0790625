"""How the search measures on a GPU: whole tokens of an engine, one kernel of which is exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fusec.bench.search import Choices
from fusec.bench.steady import difference
from fusec.errors import FusecError
from fusec.ir.plan import Arg, Choice, LaunchPlan
from fusec.runtime.cuda.driver import Executable, Handle
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.session import positions

POSITION = 64  # of the first token that is timed
WARM, TOKENS = 4, 32  # replays before the clock starts, and while it runs at most
RUN_US = 8_000.0  # long enough to be told from noise; tokens of large models are few
SHARE_REPEATS = 5
CONTROL = "feed"  # not advance: tokens come from memory, whatever the plan computes meanwhile


class TokenBench:
    """Tokens of an engine, timed by the GPU's events. `variants`: every kernel with every choice.

    Raises FusecError where the context has too few positions.
    """

    def __init__(
        self, engine: CudaEngine, variants: Mapping[tuple[str, Choice], Executable]
    ) -> None:
        self.engine, self.variants = engine, variants
        self.workspace, self.plan = engine.workspace, engine.loop.greedy.plan
        context = positions(self.plan)
        least = WARM + TOKENS + 1
        if context < least:
            raise FusecError(f"tuning needs a context of {least} positions, found {context}")
        self._first = min(POSITION, context - least)
        self._loaded: dict[str, Choice] = {}
        self._graphs: dict[frozenset[tuple[str, Choice]], Handle] = {}
        self._tokens = TOKENS
        once = self._time(self._graph(self.plan))
        self._tokens = max(4, min(TOKENS, int(RUN_US / max(once, 1.0))))

    def measure(self, choices: Choices) -> float:
        """Microseconds a token with those kernels, from one run of several tokens."""
        key = frozenset(choices.items())
        if key not in self._graphs:
            self._load(choices)
            self._graphs[key] = self._graph(self.plan)
        return self._time(self._graphs[key])

    def share(self, kernel: str, choices: Choices) -> float:
        """Microseconds by which a token is shorter without a kernel's launches."""
        self._load(choices)
        whole, without = (self._graph(plan) for plan in (self.plan, _without(self.plan, kernel)))

        def both() -> tuple[float, float]:
            times = [(self._time(whole), self._time(without)) for _ in range(SHARE_REPEATS)]
            more, less = np.median(times, axis=0)
            return float(more), float(less)

        return difference(both, f"a token beside one without {kernel}")

    def logits(self, choices: Choices, count: int) -> bytes:
        """All outputs at the first positions, of a new session that captures those kernels."""
        self._load(choices)
        session = CudaSession(self.engine.loop.decode.plan, self.workspace)
        vocabulary = self.engine.vocabulary
        found = []
        for position in range(min(count, positions(self.plan))):
            token = np.array([(7 * position + 1) % vocabulary], np.int32)
            outputs = session.step(token=token, pos=np.array([position], np.int32))
            found += [outputs[name].tobytes() for name in sorted(outputs)]
        return b"".join(found)

    def _load(self, choices: Choices) -> None:
        for name, choice in choices.items():
            if self._loaded.get(name) != choice:
                self.workspace.add(self.variants[name, choice])
                self._loaded[name] = choice

    def _graph(self, plan: LaunchPlan) -> Handle:
        """One token of a plan, captured."""
        session = CudaSession(plan, self.workspace)

        def enqueue() -> None:
            session.enqueue()
            self.engine.loop.enqueue_control(CONTROL)

        return self.workspace.capture(enqueue)

    def _time(self, graph: Handle) -> float:
        workspace, driver = self.workspace, self.workspace.driver
        workspace.write(Arg("input", "%token"), np.zeros(1, np.int32))
        workspace.write(Arg("input", "%pos"), np.array([self._first], np.int32))
        workspace.cache.reach(self._first, self._first + WARM + self._tokens)
        for _ in range(WARM):
            driver.replay(graph, workspace.stream)
        start, end = driver.event(), driver.event()
        driver.record(start, workspace.stream)
        for _ in range(self._tokens):
            driver.replay(graph, workspace.stream)
        driver.record(end, workspace.stream)
        driver.synchronize(workspace.stream)
        seconds = driver.seconds_between(start, end)
        driver.forget(start)
        driver.forget(end)
        return 1e6 * seconds / self._tokens


def _without(plan: LaunchPlan, kernel: str) -> LaunchPlan:
    """The plan less a kernel's launches: a launch behind them follows the one in front of them."""
    first, *rest = (launch for launch in plan.launches if launch.kernel != kernel)
    return replace(plan, launches=(replace(first, early=False), *rest))
