"""Which graph a generation with drafted tokens enqueues next: how many rows, or a plain one.

The host sees every token, so it knows what the device will guess: it keeps the same tables, learns
from each token how often such guesses are right, and asks for a step of so many rows as pay. The
device looks for the guesses itself. Where nothing pays, plain graphs run ahead of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from fusec.codegen.cuda.drafting import MOST_CHAINED, SURE
from fusec.runtime.drafting import Recycle, Row, Suffix
from fusec.runtime.drafting.depth import Acceptance, Cost, best_worth
from fusec.runtime.drafting.recycle import PAIR
from fusec.runtime.drafting.suffix import LONGEST, confidences

GAP = 0.1
"""Steps of one row that the GPU waits where the host first looks at what a step has made."""

RUN = 4  # plain graphs between two with guesses that say what one of them takes
LOOK = 8  # every so many graphs one fills the table of pairs, though it does not pay


class GraphCost(Cost):
    """Of graphs, whose rows are 1, 2, 4, 8 or 16. One row is a plain token."""

    a_row = 0.25

    def _of(self, rows: int) -> float:
        return super()._of(width_of(rows))

    def took(self, width: int, plain: int, seconds: float) -> None:
        """From the end of a step with guesses to that of the next, with `plain` graphs between."""
        if width == 1:
            return  # it guesses as well, so it is no plain one
        if not plain:
            self.measured(width, seconds)
        elif plain >= RUN and self.seconds(width):
            self.measured(1, max(0.0, seconds - self.seconds(width)) / plain)


class _Ground(NamedTuple):
    """What the device will guess from: a match of so many tokens, or a chain from the pairs.

    Neither where it has no guess. `place`: where what followed the match stands in the sequence.
    """

    matched: int = 0
    place: int = 0
    chain: tuple[int, ...] = ()


class Pace:
    """For generations of one engine, with at most `most` guesses a step.

    `suffix`, `recycle`: what the device guesses from. For each step `seen` and `width`, for which
    the GPU may be waiting, and `learn`, which has time while the next one runs.
    """

    def __init__(
        self,
        most: int,
        *,
        suffix: bool = True,
        recycle: bool = True,
        cost: GraphCost | None = None,
    ) -> None:
        self.cost = cost or GraphCost()
        self.suffixes = most if suffix else 0
        self.chained = min(MOST_CHAINED, most) if recycle else 0
        self._most, self._acceptance = most, Acceptance()
        self._suffix, self._recycle = Suffix(), Recycle(MOST_CHAINED)
        self._ground = self._ground_before = _Ground()
        self._seen = 0  # tokens that came last
        self._worths: dict[tuple[int, int], int] = {}  # since something was learnt
        self._looked = self._ended = self._plain = 0

    def begin(self, sequence: Sequence[int]) -> None:
        """A generation starts behind these tokens."""
        self._suffix.begin(sequence)
        self._recycle.begin(sequence)
        self._ended = 0
        self._ground = self._look()

    def ended(self, width: int, time: int) -> None:
        """A graph with guesses was done then, in nanoseconds of the device's clock."""
        if self._ended:
            self.cost.took(width, self._plain, (time - self._ended) / 1e9)
        self._ended, self._plain = time, 0

    def seen(self, tokens: Sequence[int]) -> None:
        """The sequence goes on with these tokens: what will be guessed behind them?"""
        self._suffix.seen(tokens, ())
        self._recycle.move(tokens)
        self._seen = len(tokens)
        self._ground_before, self._ground = self._ground, self._look()

    def learn(self, plain: bool = False) -> None:
        """What guesses are worth, and what follows what, by the tokens that were seen last.

        `plain`: the graph that made them has entered nothing into the table of pairs.
        """
        sequence, ground = self._suffix.sequence, self._ground_before
        start = len(sequence) - self._seen
        made = sequence[start:]
        guesses = ground.chain or sequence[ground.place : ground.place + len(made)]
        trust = self._confidences(ground.matched, len(ground.chain))
        for confidence, guess, token in zip(trust, guesses, made, strict=False):
            self._acceptance.learn(confidence, guess == token)
            if guess != token:
                break
        self._plain += plain
        if not plain:
            rows = map(Row, sequence[start - 1 :], made)
            self._recycle.enter(sequence[start - 2] if start > 1 else -1, rows)
        self._suffix.enter()
        self._worths.clear()

    def width(self, ahead: Sequence[int] = ()) -> int | None:
        """Rows of the next graph, 0 of a plain one, behind those `ahead` that are not seen yet.

        None: wait until one of them is. Behind plain ones because a match has begun, which should
        not be missed; behind one with guesses unless it is nearly certain that all are right.
        """
        matched, chain = self._ground.matched, len(self._ground.chain)
        if max(ahead, default=0) < 2:
            width = self._worth(matched, chain)
            if not width:
                return self._without()
            return None if ahead else width
        passed = sum(max(1, width) for width in ahead)
        if not matched:
            return None  # nobody knows what the pairs say behind a chain
        width = self._worth(min(LONGEST, matched + passed))  # if all of them are right
        right = prod(map(self._acceptance.of, confidences(matched, passed)))
        lost = (1 - right) * (self.cost.of(width) - 1) if width else 1.0
        return width if lost < right * GAP else None

    def _look(self) -> _Ground:
        """What the kernel `draft` will find."""
        matched = self._suffix.matched if self.suffixes else 0
        if self.chained and matched < SURE:
            chain = tuple(guess.token for guess in self._recycle.propose(self.chained))
            if chain:
                return _Ground(chain=chain)
        return _Ground(matched, self._suffix.place)

    def _confidences(self, matched: int, chain: int) -> Sequence[float]:
        """Of the guesses behind a match of so many tokens, or of those of a chain."""
        return confidences(matched, self._most) if matched else [PAIR] * chain

    def _worth(self, matched: int, chain: int = 0) -> int:
        """Rows of the step that pays most; 0 where none does."""
        found = self._worths.get((matched, chain))
        if found is None:
            guesses = self._confidences(matched, chain)
            count = best_worth(guesses, self._acceptance, self.cost).guesses
            found = self._worths[matched, chain] = width_of(count + 1) if count else 0
        return found

    def _without(self) -> int:
        """Of a graph without guesses: a plain one, or one of a row that fills the table of pairs.

        The latter where nothing else would.
        """
        if self.suffixes:
            return 0
        self._looked += 1
        pays = self._worth(0, self.chained)
        return int(bool(pays) or self._looked % LOOK == 1)


def width_of(rows: int) -> int:
    """Rows of the smallest graph that has so many."""
    return 1 << (rows - 1).bit_length()
