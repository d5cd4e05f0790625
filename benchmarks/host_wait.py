"""How long the GPU waits for the host between two graphs, in the loop with drafted tokens.

    PYTHONPATH=. python benchmarks/host_wait.py --texts out/texts.json      # no GPU
    python benchmarks/host_wait.py --model MODEL.gguf                       # on a GPU

From the moment a result was seen to the launch of the next graph, where nothing else is enqueued:
medians in microseconds, by the rows of both graphs (0: a plain one), and what the launch itself
takes. Without a GPU the graphs are done at once, and make the texts that `play_drafts.py` recorded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusec import driver
from fusec.bench.drafts import texts_of
from fusec.models.model import Model
from fusec.models.synth import synthesize
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.pace import GraphCost, Pace
from fusec.runtime.drafting import Auto, DraftStatistics
from fusec.runtime.job import Job
from fusec.runtime.sampling import Sampling

COSTS = [1.0, 1.4, 1.9, 1.9, *[2.75] * 4, *[3.5] * 8]
"""Of steps by their rows, with what guessing adds: about an H200's, for SmolLM2-135M."""


class Watched:
    """A stopwatch around what an engine's loop waits for and what it launches.

    `gaps`: rows of a graph and of the next -> seconds between them; `launches`: rows -> seconds.
    """

    def __init__(self, engine: CudaEngine) -> None:
        assert engine.drafted is not None
        self._loop, self._steps = engine.loop, engine.drafted.steps
        driver = engine.workspace.driver
        self._wait, self._replay = engine.loop.wait_for, driver.replay
        engine.loop.wait_for, driver.replay = self.wait_for, self.replay  # type: ignore[method-assign]
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self.gaps: dict[tuple[int, int], list[float]] = defaultdict(list)
        self.launches: dict[int, list[float]] = defaultdict(list)
        self.generation()

    def generation(self) -> None:
        """One starts."""
        self._ahead: deque[int] = deque()  # rows of graphs whose results were not seen
        self._seen, self._last = 0.0, 0

    def wait_for(self, entries: Any, number: int, *, naps: bool = True) -> int:
        """A result is a word of the log, or the token of a plain graph."""
        word: int = self._wait(entries, number, naps=naps)
        if self._ahead:
            self._seen, self._last = time.perf_counter(), self._ahead.popleft()
        return word

    def replay(self, graph: Any, stream: Any) -> None:
        """Launch it."""
        start = time.perf_counter()
        self._replay(graph, stream)
        took = time.perf_counter() - start
        rows = self._rows(graph)
        if rows is None:
            return  # a part of the prompt
        self.launches[rows].append(took)
        if not self._ahead and self._seen:
            self.gaps[self._last, rows].append(start - self._seen)
        self._ahead.append(rows)

    def _rows(self, graph: Any) -> int | None:
        """Of a graph that makes tokens."""
        if any(known is graph for known in self._loop._graphs.values()):
            return 0
        every = self._steps._graphs.items()
        return next((rows for (_, rows, _), known in every if known is graph), None)

    def lines(self) -> Iterator[str]:
        """What was measured."""
        for (before, after), found in sorted(self.gaps.items()):
            yield f"{before:3} -> {after:2}: {_shown(found)}"
        for rows, found in sorted(self.launches.items()):
            yield f"launch {rows:2}: {_shown(found)}"
        if every := [gap for found in self.gaps.values() for gap in found]:
            yield f"gaps, all : {_shown(every)}"


def _shown(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    median, high = (1e6 * ordered[int(part * len(ordered))] for part in (0.5, 0.9))
    return f"{median:6.1f} us, nine of ten below {high:6.1f}, {len(ordered)} of them"


def on_a_gpu(path: Path, n: int, repeats: int) -> None:
    """The texts that a model makes of the six prompts."""
    model = Model.open(path)
    texts, _ = texts_of(model, model.config.context, n)
    context = max(map(len, texts.values())) + n
    with driver.load(model, target="native", context=context) as engine:
        assert isinstance(engine, CudaEngine)
        engine.stop, engine.drafter = frozenset(), Auto()
        watched = Watched(engine)
        for turn in range(repeats + 1):
            engine.drafter = Auto()
            if turn < 2:
                watched.begin()
            for ids in texts.values():
                watched.generation()
                list(engine.tokens(ids, n))
        print("\n".join(watched.lines()))
        print("costs", engine.draft_costs)


def without_a_gpu(path: Path, n: int, repeats: int) -> None:
    """Recorded texts."""
    from tests.runtime.cuda.scripted import scripted

    texts = json.loads(path.read_text()).values()
    context = max(len(text["prompt"]) for text in texts) + n
    with tempfile.TemporaryDirectory() as folder:
        tiny = synthesize("tiny", Path(folder) / "tiny.gguf", context=context)
        engine, gpu = scripted(driver.compile(tiny, target="sm_90a", level=2, context=context))
    assert engine.drafted is not None
    watched = Watched(engine)
    for turn in range(repeats + 1):
        if turn < 2:
            watched.begin()
        for text in texts:
            watched.generation()
            prompt, made = tuple(text["prompt"]), text["made"][:n]
            gpu.start([*prompt, *made], len(prompt) - 1)
            job = Job(prompt, n, Sampling(), kept=len(prompt) - 1)
            pace = Pace(15, cost=GraphCost(COSTS))
            found = list(engine.drafted.run(job, frozenset(), pace, DraftStatistics()))
            assert found == made, "the text has changed"
    print("\n".join(watched.lines()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--texts", type=Path, default=Path("out/texts.json"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.model:
        on_a_gpu(given.model, given.n, given.repeats)
    else:
        without_a_gpu(given.texts, given.n, given.repeats)


if __name__ == "__main__":
    main()
