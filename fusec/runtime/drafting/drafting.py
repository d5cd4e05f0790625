"""A generation with a drafter: what is guessed, what was accepted, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fusec.arguments import mistaken
from fusec.runtime.drafting.depth import Depth
from fusec.runtime.drafting.drafter import Array, Drafter, Guess, Row


@dataclass
class DraftStatistics:
    """Of one generation.

    Its steps; the guesses that these checked, and those of them that were right; all tokens that
    were made. `proposed`: what a drafter on the host has guessed, and `proposing_s`: how long that
    took, in seconds; a proposal may be longer than what is worth checking. `by_rows`: the steps of
    so many rows.
    """

    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    proposed: int = 0
    proposing_s: float = 0.0
    by_rows: dict[int, int] = field(default_factory=dict)

    def stepped(self, rows: int) -> None:
        """One more step, of so many rows."""
        self.steps += 1
        self.by_rows[rows] = self.by_rows.get(rows, 0) + 1

    def checked(self, rows: int, drafted: int, made: int) -> None:
        """One more step, of so many rows, which has checked guesses and made tokens."""
        self.stepped(rows)
        self.drafted += drafted
        self.accepted += max(0, made - 1)

    @property
    def acceptance(self) -> float:
        """The share of guessed tokens that were right; 0 where none were guessed."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_a_step(self) -> float:
        """1 without a drafter; 0 where nothing was made."""
        return self.tokens / self.steps if self.steps else 0.0

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens in {self.steps} steps ({self.tokens_a_step:.2f} a step), "
            f"{self.accepted} of {self.drafted} drafted accepted ({self.acceptance:.0%})"
        )


class Drafting:
    """Guesses for the steps of one engine, at most `most` a step; none without a drafter.

    For each step: `guesses`, `stepped`, and `takes` for each of its rows until one says no.
    """

    def __init__(self, drafter: Drafter | None, most: int, depth: Depth | None = None) -> None:
        self.drafter, self.most = drafter, most
        self.depth = depth or Depth()
        self.statistics = DraftStatistics()
        self._proposed: Sequence[Guess] = ()  # what the drafter said, to learn from
        self._checked = 0  # how many of them the step has
        self._asked = False  # whether the drafter was, in this generation
        self._taken: list[int] = []  # tokens of this step
        # steps that the drafter has not seen: tokens made, tokens read, the likeliest behind each
        self._told: list[tuple[list[int], Sequence[int], Sequence[int]]] = []

    def begin(self, sequence: Sequence[int]) -> None:
        """A generation begins behind these tokens."""
        self.statistics = DraftStatistics()
        self._proposed, self._checked, self._taken, self._told = (), 0, [], []
        self._asked = False
        if self.drafter:
            self.drafter.begin(sequence)

    @property
    def reads_hidden(self) -> bool:
        """Whether the drafter wants to be told by `read` of every step."""
        return self.drafter is not None and self.drafter.reads_hidden

    def read(self, first: int, hidden: Array) -> None:
        """See `Drafter`."""
        assert self.drafter is not None
        self.drafter.read(first, hidden)

    def guesses(self, most: int) -> list[int]:
        """Tokens that the next step checks, at most so many.

        Raises FusecError where what the drafter proposes are no guesses.
        """
        self._proposed, self._checked, self._taken = (), 0, []
        most = min(most, self.most)
        if not self.drafter or most < 1 or not self.depth.asks():
            return []
        most = min(most, self.depth.wanted(most))
        start = time.perf_counter()
        for made, read, best in self._told:
            self.drafter.seen(made, [Row(*row) for row in zip(read, best, strict=True)])
        self._told.clear()
        self._proposed = _guesses_of(self.drafter, most)
        seconds = time.perf_counter() - start
        self.statistics.proposed += len(self._proposed)
        self.statistics.proposing_s += seconds
        # the first may have had to read the prompt
        self._checked = self.depth.worth(self._proposed, seconds if self._asked else 0.0)
        self._asked = True
        return [guess.token for guess in self._proposed[: self._checked]]

    def stepped(self, tokens: Sequence[int], best: Sequence[int], seconds: float) -> None:
        """A step has read these tokens; `best`: the likeliest behind each."""
        self.statistics.stepped(len(tokens))
        self.statistics.drafted += self._checked
        if self.drafter:
            self.depth.cost.measured(len(tokens), seconds)
            self._told.append((self._taken, tokens, best))

    def takes(self, token: int) -> bool:
        """Whether this token, which the last row has led to, is the one that the next row read."""
        row = len(self._taken)
        self._taken.append(token)
        self.statistics.tokens += 1
        if row >= max(self._checked, min(1, len(self._proposed))):
            return False
        guess = self._proposed[row]
        right = token == guess.token
        self.depth.acceptance.learn(guess.confidence, right)
        self.statistics.accepted += right and row < self._checked
        return right and row < self._checked


def _guesses_of(drafter: Drafter, most: int) -> Sequence[Guess]:
    """What a drafter proposes, at most so many. Raises FusecError for what are no guesses."""
    found: object = drafter.propose(most)
    guesses: Sequence[Any] = found[:most] if isinstance(found, Sequence) else (found,)
    for guess in guesses:
        if not isinstance(guess, Guess):
            proposed = f"{type(drafter).__name__}.propose"
            raise mistaken(proposed, "guesses, such as Guess(token=5, confidence=0.5)", guess)
    return guesses
