"""The parts of a round of the token loop on a GPU, by events around graphs that end with each.

A graph that ends with a part takes longer than one that ends in front of it: by the part, beside
what surrounds it. What a round moves, the last token and its position, is put back in each graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fusec.bench.drafted_texts import Generation, Round, Texts, counted
from fusec.bench.experiment import prompt_of
from fusec.bench.stopwatch import Watch, executables
from fusec.errors import FusecError
from fusec.runtime.cuda.checked_steps import MOST_ROWS, CheckedSteps
from fusec.runtime.cuda.engine import ON_DEVICE, CudaEngine
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling


def measure(engine: Engine, texts: Texts) -> tuple[list[Round], list[Generation]]:
    """Of graphs of as many rows, greedy, in the middle of the context.

    What a drafter on the host takes is its own time, in each round that it was asked for.
    """
    if not isinstance(engine, CudaEngine) or engine.drafted is None:
        raise FusecError("profiling a GPU needs the CUDA target")
    generations = texts.run()
    counts, hosted = counted(generations), type(engine.drafter) not in ON_DEVICE
    bench = _Bench(engine, engine.drafted.steps, drafts=not hosted)
    found = [bench.round(rows, counts[rows]) for rows in sorted(counts)]
    return found, generations


class _Bench:
    """`drafts`: whether the device guesses."""

    def __init__(self, engine: CudaEngine, steps: CheckedSteps, *, drafts: bool) -> None:
        self.loop, self.steps, self.drafts = engine.loop, steps, drafts
        self.asking = 0.0 if drafts else _asking(engine)
        workspace = engine.workspace
        self.watch = Watch(workspace, executables(workspace.driver))
        position = (engine.context - MOST_ROWS) // 2
        prompt = prompt_of(engine.vocabulary)  # over and over, so that there is a match
        self.ids = (prompt * (position // len(prompt) + 2))[: position + MOST_ROWS]
        engine.reset()
        self.loop.start(self.ids[: position + 1], Sampling())
        self.loop.make_room(MOST_ROWS)
        steps.begin(engine.context - 1, suffixes=MOST_ROWS - 1, chained=0)
        self.position, self.memory = position, workspace.memory
        self.kept = [
            (place, self.memory.zeros(4, "a word")) for place in (self.loop.token, self.loop.pos)
        ]
        for place, kept in self.kept:
            self.memory.copy(kept, place, 4)

    def round(self, rows: int, count: int) -> Round:
        """Of `rows`, of which all but the first are guesses."""
        if rows == 1:
            (plain,) = self._each(self.loop.enqueue_greedy)
            return Round(1, count, 0.0, plain, 0.0, 0.0)
        if not self.drafts:
            self._restore()
            self.steps.guess(self.position, self.ids[self.position + 1 :][: rows - 1])
        whole = self.steps.parts("greedy", rows, drafts=self.drafts)
        logits = self.steps.parts("sampled", rows, drafts=self.drafts)["check"]

        def begin() -> None:
            if self.drafts:
                whole["draft"]()

        def check() -> None:
            begin()
            logits()

        def choose() -> None:
            begin()
            whole["check"]()

        def accept() -> None:
            choose()
            whole["accept"]()

        graphs = (begin, check, choose, accept) if self.drafts else (check, choose, accept)
        times = self._each(*graphs)
        return Round(rows, count, *(times if self.drafts else (self.asking, *times)))

    def _each(self, *graphs: Callable[[], None]) -> list[float]:
        """By how many microseconds each is longer than the one before; the first, than nothing."""

        def whole(enqueue: Callable[[], None]) -> None:
            self._restore()
            enqueue()

        every: list[Callable[[], None]] = [self._restore]
        every += [partial(whole, enqueue) for enqueue in graphs]
        return self.watch.growth(every, lambda n: f"part {n} of a round")

    def _restore(self) -> None:
        for place, kept in self.kept:
            self.memory.copy(place, kept, 4)


def _asking(engine: CudaEngine) -> float:
    """Microseconds that a drafter on the host takes for a round, in the last generation."""
    found = engine.draft_statistics
    return 1e6 * found.proposing_s / max(1, found.steps)
