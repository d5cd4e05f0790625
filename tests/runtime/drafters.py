"""Drafters that know too much or nothing, and one row costs as much as sixteen."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.runtime.drafting import Drafter, Drafting, Guess, Row
from fusec.runtime.drafting.depth import Cost, Depth
from fusec.runtime.engine import Engine

FREE = tuple([1.0] * 16)
"""What a step costs by its rows, where all of them cost the same: every guess is checked."""


class Scripted(Drafter):
    """Proposes what stands behind as many tokens in a text, whatever the sequence is."""

    def __init__(self, text: Sequence[int]) -> None:
        self.text, self.place = list(text), 0
        self.steps: list[tuple[list[int], list[Row]]] = []

    def begin(self, sequence: Sequence[int]) -> None:
        self.place, self.steps = len(sequence), []

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        self.steps.append((list(tokens), list(rows)))
        self.place += len(tokens)

    def propose(self, most: int) -> list[Guess]:
        return [Guess(token, 0.99) for token in self.text[self.place : self.place + most]]


class Nonsense(Drafter):
    """Always the same few tokens, and very sure of them."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary, self.asked = vocabulary, 0

    def begin(self, sequence: Sequence[int]) -> None:
        self.asked = 0

    def propose(self, most: int) -> list[Guess]:
        self.asked += 1
        return [Guess((7919 * (self.asked + n)) % self.vocabulary, 1.0) for n in range(most)]


def draft_with(engine: Engine, drafter: Drafter, cost: Sequence[float] = FREE) -> None:
    """Give an engine a drafter, at costs that are not measured."""
    engine.drafter = drafter
    engine._drafting = Drafting(drafter, engine.draft_max, Depth(Cost(cost)))
