"""The parts of a round of the token loop on the CPU, by timers around them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fusec.bench.drafted_texts import Generation, Round, Texts, counted
from fusec.runtime.drafting import Drafting
from fusec.runtime.engine import Engine


def measure(engine: Engine, texts: Texts) -> tuple[list[Round], list[Generation]]:
    """Medians over all rounds of as many rows."""
    watched = _Watched(engine._drafting)
    step = engine._run
    engine._drafting, engine._run = watched, watched.timing(step)  # type: ignore[method-assign]
    try:
        generations = texts.run()
    finally:
        engine._run = step  # type: ignore[method-assign]
    counts = counted(generations)
    return [
        Round(rows, counts[rows], *(1e6 * median(part) for part in zip(*times, strict=True)))
        for rows, times in sorted(watched.rounds.items())
    ], generations


class _Watched(Drafting):
    """A generation's drafting. `rounds`: by rows, seconds of draft, check, choice and accept."""

    def __init__(self, drafting: Drafting) -> None:
        super().__init__(drafting.drafter, drafting.most, drafting.depth)
        self.rounds: dict[int, list[list[float]]] = defaultdict(list)
        self._draft = self._check = 0.0

    def timing(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The engine's way to run a session, timed."""

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            found = step(*args)
            self._check = time.perf_counter() - start
            return found

        return timed

    def guesses(self, most: int) -> list[int]:
        """See `Drafting`."""
        start = time.perf_counter()
        found = super().guesses(most)
        self._draft = time.perf_counter() - start
        return found

    def stepped(self, tokens: Sequence[int], best: Sequence[int], seconds: float) -> None:
        """See `Drafting`. A step is its session, and the largest logit of each row."""
        start = time.perf_counter()
        super().stepped(tokens, best, seconds)
        accept = time.perf_counter() - start
        self._now = [self._draft, self._check, max(0.0, seconds - self._check), accept]
        self.rounds[len(tokens)].append(self._now)

    def takes(self, token: int) -> bool:
        """See `Drafting`."""
        start = time.perf_counter()
        found = super().takes(token)
        self._now[-1] += time.perf_counter() - start
        return found
