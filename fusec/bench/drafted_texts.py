"""Texts that are made with drafted tokens, and the rounds of the token loop that they take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fusec.bench.experiment import Note
from fusec.runtime.engine import Engine


@dataclass(frozen=True)
class Round:
    """Microseconds of the parts of a round of so many rows; `count`: how many the texts had."""

    rows: int
    count: int
    draft: float
    check: float
    choice: float
    accept: float


@dataclass(frozen=True)
class Generation:
    """What drafting made of a text: see `DraftStatistics`. `prompt`: its tokens. `us`: a token."""

    name: str
    prompt: int
    tokens: int
    steps: int
    drafted: int
    accepted: int
    us: float
    by_rows: dict[int, int]


class Texts:
    """Generations behind prompts that have room in an engine's context."""

    def __init__(self, engine: Engine, ids: dict[str, list[int]], tokens: int, note: Note) -> None:
        self._engine, self._ids, self._tokens, self._note = engine, ids, tokens, note

    def run(self) -> list[Generation]:
        """One of each, greedy."""
        return [self._generation(name, ids) for name, ids in self._ids.items()]

    def _generation(self, name: str, ids: list[int]) -> Generation:
        self._note(f"drafted: {name}")
        made = self._engine.tokens(ids, self._tokens)
        next(made)
        start = time.perf_counter()
        rest = sum(1 for _ in made)
        us = 1e6 * (time.perf_counter() - start) / rest
        found = self._engine.draft_statistics
        return Generation(
            name, len(ids), found.tokens, found.steps, found.drafted, found.accepted, us,
            dict(sorted(found.by_rows.items())),
        )  # fmt: skip


def counted(generations: Iterable[Generation]) -> Counter[int]:
    """Rows -> rounds of all texts."""
    found: Counter[int] = Counter()
    for each in generations:
        found.update(each.by_rows)
    return found
