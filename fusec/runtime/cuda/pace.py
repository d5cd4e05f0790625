"""Which graph a generation with drafted tokens enqueues next: how many rows, or a plain one.

The host sees every token, so it knows what the device will guess: it keeps the same tables, learns
from each token how often such guesses are right, and asks for a step of so many rows as pay. The
device looks for the guesses itself. Where nothing pays, plain graphs run ahead of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from fusec.codegen.cuda.drafting import MOST_CHAINED
from fusec.runtime.drafting import Auto, Drafter, Guess, Recycle, Row, Suffix
from fusec.runtime.drafting.depth import Acceptance, Cost, best_worth
from fusec.runtime.drafting.recycle import PAIR

GAP = 0.1
"""Steps of one row that the GPU waits where the host first looks at what a step has made."""

RUN = 4  # plain graphs between two with guesses that say what one of them takes
LOOK = 8  # every so many graphs one fills the table of pairs, though it does not pay


class GraphCost(Cost):
    """Of graphs, whose rows are 1, 2, 4, 8 or 16. One row is a plain token."""

    a_row = 0.25

    def of(self, rows: int) -> float:
        """See `Cost`."""
        return super().of(width_of(rows))

    def took(self, width: int, plain: int, seconds: float) -> None:
        """From the end of a step with guesses to that of the next, with `plain` graphs between."""
        if width == 1:
            return  # it guesses as well, so it is no plain one
        if not plain:
            self.measured(width, seconds)
        elif plain >= RUN and self.seconds(width):
            self.measured(1, max(0.0, seconds - self.seconds(width)) / plain)


class Pace:
    """For generations of one engine, with at most `most` guesses a step.

    `suffix`, `recycle`: what the device guesses from.
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
        self._acceptance, self._most = Acceptance(), most
        self._drafter = _stand_in(suffix, recycle)
        self._guesses: Sequence[Guess] = ()
        self._foreseen: tuple[list[int], int] = [], 0
        self._last = self._looked = 0
        self._ended = self._plain = 0

    def begin(self, sequence: Sequence[int]) -> None:
        """A generation starts behind these tokens."""
        self._drafter.begin(sequence)
        self._last = sequence[-1]
        self._ended = 0
        self._look()

    def ended(self, width: int, time: int) -> None:
        """A graph with guesses was done then, in nanoseconds of the device's clock."""
        if self._ended:
            self.cost.took(width, self._plain, (time - self._ended) / 1e9)
        self._ended, self._plain = time, 0

    def seen(self, tokens: Sequence[int], plain: bool = False) -> None:
        """The sequence goes on with these tokens: learn what guesses are worth.

        `plain`: the graph that made them has entered nothing into the table of pairs.
        """
        for guess, token in zip(self._guesses, tokens, strict=False):
            self._acceptance.learn(guess.confidence, guess.token == token)
            if guess.token != token:
                break
        self._plain += plain
        rows = () if plain else [Row(*pair) for pair in pairwise((self._last, *tokens))]
        self._drafter.seen(tokens, rows)
        self._last = tokens[-1]
        self._look()

    def width(self, ahead: Sequence[int] = ()) -> int | None:
        """Rows of the next graph, 0 of a plain one, behind those `ahead` that are not seen yet.

        None: wait until one of them is. Behind plain ones because a match has begun, which should
        not be missed; behind one with guesses unless it is nearly certain that all are right.
        """
        if max(ahead, default=0) < 2:
            width = self._worth(self._guesses)
            if not width:
                return self._without()
            return None if ahead else width
        passed = sum(max(1, width) for width in ahead)
        guesses = self._drafter.propose(passed + self._most)
        if len(guesses) < passed:
            return None
        right = prod(self._acceptance.of(guess.confidence) for guess in guesses[:passed])
        width = self._worth(guesses[passed:])
        self._foreseen = [guess.token for guess in guesses[:passed]], width
        lost = (1 - right) * (self.cost.of(width) - 1) if width else 1.0
        return width if lost < right * GAP else None

    def foreseen(self, tokens: Sequence[int]) -> int:
        """Rows of the next graph, if the last one has made what `width` took it to make; else 0.

        It was thought of while that graph ran, and is known before `seen` has done its work.
        """
        guessed, width = self._foreseen
        return width if guessed == tokens else 0

    def _look(self) -> None:
        self._foreseen = [], 0
        self._guesses = self._drafter.propose(self._most)

    def _worth(self, guesses: Sequence[Guess]) -> int:
        """Rows of the step that pays most; 0 where none does."""
        count = best_worth(guesses, self._acceptance, self.cost).guesses
        return width_of(count + 1) if count else 0

    def _without(self) -> int:
        """Of a graph without guesses: a plain one, or one of a row that fills the table of pairs.

        The latter where nothing else would.
        """
        if self.suffixes:
            return 0
        self._looked += 1
        pays = self._worth([Guess(0, PAIR)] * self.chained)
        return int(bool(pays) or self._looked % LOOK == 1)


def width_of(rows: int) -> int:
    """Rows of the smallest graph that has so many."""
    return 1 << (rows - 1).bit_length()


def _stand_in(suffix: bool, recycle: bool) -> Drafter:
    """Guesses as the kernel `draft` does."""
    if suffix and recycle:
        return Auto(MOST_CHAINED)
    return Suffix() if suffix else Recycle(MOST_CHAINED)
