"""How many guesses are worth checking: what they are likely to give, by what a step of them costs.

Both are measured while a generation runs. Where nothing pays, nothing is checked, and where even
asking takes time that it does not give back, nobody is asked for a while.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fusec.runtime.drafting.drafter import Guess

MARGIN = 1.03  # a gain below this is within what measuring can tell
BINS = 16  # of confidence
TRUST = 6.0  # tries that a drafter's own confidence counts for
MEMORY = 0.98  # what is left of a bin's counts with each try: text changes
SAMPLES = 7  # times of a width that are kept
FRESH = 256  # steps after which a time is forgotten
LEAST = 0.01  # a guess that is less likely to count adds nothing
CHEAP = 0.005  # of a step: who asks for less may always ask
LONGEST_REST = 64  # tokens


class Cost:
    """What a step costs by its rows, in steps of one row: medians of the last few."""

    a_row = 0.4
    """What one more row is taken to cost until it was measured."""

    def __init__(self, relative: Sequence[float] = ()) -> None:
        """`relative`: of 1, 2, ... rows, if it is known; it is not measured then."""
        self._fixed = tuple(relative)
        self._times: dict[int, deque[float]] = {}
        self._warm: set[int] = set()
        self._found: dict[int, float] = {}  # what `of` said since the last measurement
        self._steps = 0

    @property
    def is_given(self) -> bool:
        """Whether nothing is measured."""
        return bool(self._fixed)

    @property
    def one(self) -> float:
        """Seconds of a step of one row; 0 where it was not measured."""
        return self.seconds(1)

    @property
    def known(self) -> dict[int, float]:
        """Rows -> cost, of the widths that were measured."""
        widths = sorted(rows for rows, times in self._times.items() if times)
        return {rows: self._relative(rows) for rows in widths} if self.one else {}

    def measured(self, rows: int, seconds: float) -> None:
        """A step took so long. The first of a width is not counted: it may have made a graph."""
        if rows not in self._warm:
            self._warm.add(rows)
            return
        self._found.clear()
        self._times.setdefault(rows, deque(maxlen=SAMPLES)).append(seconds)
        self._steps += 1
        if self._steps % FRESH == 0:
            self._forget()

    def of(self, rows: int) -> float:
        """Of a step of so many rows. One that was not measured lies between those that were.

        Beyond them a row costs what it usually does, or what it did up to there if that is less: so
        a width that could pay is tried, and known.
        """
        found = self._found.get(rows)
        if found is None:
            found = self._found[rows] = self._of(rows)
        return found

    def _of(self, rows: int) -> float:
        if rows == 1:
            return 1.0
        return self._fixed[min(rows, len(self._fixed)) - 1] if self._fixed else self._between(rows)

    def _between(self, rows: int) -> float:
        known = sorted(width for width, times in self._times.items() if times and width > 1)
        if not known or not self.one:
            return 1 + self.a_row * (rows - 1)
        above = bisect_left(known, rows)
        if above == len(known):
            widest, cost = known[-1], self._relative(known[-1])
            a_row = min(self.a_row, max(0.0, cost - 1) / (widest - 1))
            return cost + a_row * (rows - widest)
        right, left = known[above], known[above - 1] if above else 1
        low = self._relative(left) if above else 1.0
        return low + (self._relative(right) - low) * (rows - left) / (right - left)

    def _relative(self, rows: int) -> float:
        return self.seconds(rows) / self.one

    def seconds(self, rows: int) -> float:
        """Of a step of so many rows; 0 where it was not measured."""
        times = self._times.get(rows)
        return sorted(times)[len(times) // 2] if times else 0.0

    def _forget(self) -> None:
        """Let go of the oldest times, so that what was slow once is tried again."""
        for rows, times in self._times.items():
            if times and (rows > 1 or len(times) > 1):
                times.popleft()


class Acceptance:
    """How often a guess of some confidence is right, given that those in front of it are."""

    def __init__(self) -> None:
        self._tries, self._hits = [0.0] * BINS, [0.0] * BINS
        self._found: dict[float, float] = {}  # what `of` said since something was learnt

    def of(self, confidence: float) -> float:
        """The share that was right, and the drafter's own word where little is known."""
        found = self._found.get(confidence)
        if found is None:
            n = self._bin(confidence)
            found = (self._hits[n] + TRUST * confidence) / (self._tries[n] + TRUST)
            self._found[confidence] = found
        return found

    def learn(self, confidence: float, right: bool) -> None:
        """One more was checked."""
        self._found.clear()
        n = self._bin(confidence)
        self._tries[n] = MEMORY * self._tries[n] + 1
        self._hits[n] = MEMORY * self._hits[n] + right

    @staticmethod
    def _bin(confidence: float) -> int:
        return min(BINS - 1, int(BINS * min(1.0, max(0.0, confidence))))  # 0 for NaN


class Worth(NamedTuple):
    """Of a number of guesses: the tokens that a step of them is likely to make, and its cost."""

    guesses: int = 0
    tokens: float = 1.0
    cost: float = 1.0


def best_worth(confidences: Iterable[float], acceptance: Acceptance, cost: Cost) -> Worth:
    """Of all numbers of guesses the one that makes most tokens for its time; none is one of them.

    It counts where it gains more than measuring can tell.
    """
    found, gain, tokens, chance = Worth(), MARGIN, 1.0, 1.0
    share, price = acceptance.of, cost.of
    for n, confidence in enumerate(confidences, 1):
        chance *= share(confidence)
        if chance < LEAST:
            break
        tokens += chance
        rows = price(n + 1)
        if tokens / rows > gain:
            found, gain = Worth(n, tokens, rows), tokens / rows
    return found


class Depth:
    """Decides how many guesses a step checks, and whether to ask for some at all."""

    def __init__(self, cost: Cost | None = None) -> None:
        self.cost, self.acceptance = cost or Cost(), Acceptance()
        self._asking = 0.0  # seconds that a proposal takes
        self._a_guess = 0.0  # and each of its guesses
        self._deepest = 0  # guesses that were worth checking the last time
        self._gain = MARGIN  # what proposals have been worth, in plain steps
        self._rest = self._left = 0

    def asks(self) -> bool:
        """Whether this step should have guesses. To be called once a step."""
        self._left -= 1
        return self._left < 0

    def wanted(self, most: int) -> int:
        """How many guesses to ask for: of one whose guesses take long, few more than were worth it.

        Until that is known, one.
        """
        if self.cost.is_given:
            return most
        if not self._a_guess or not self.cost.one:
            return 1
        return most if self._a_guess < CHEAP * self.cost.one else min(most, self._deepest + 1)

    def worth(self, guesses: Sequence[Guess], seconds: float) -> int:
        """How many of the guesses to check; it took `seconds` to make them, 0 if nobody knows.

        None while a plain step was not measured, which all times are compared with.
        """
        if not (self.cost.is_given or self.cost.one):
            return 0
        confidences = (guess.confidence for guess in guesses)
        best = best_worth(confidences, self.acceptance, self.cost)
        self._deepest = best.guesses
        if seconds:
            each = seconds / max(1, len(guesses))
            self._a_guess = self._a_guess + (each - self._a_guess) / 8 if self._a_guess else each
            self._weigh(best.tokens, best.cost, seconds)
        return best.guesses

    def _weigh(self, expected: float, cost: float, seconds: float) -> None:
        """Rest, twice as long each time, where asking costs more than it gives.

        No longer than makes asking cheap.
        """
        one = self.cost.one
        if not one:
            return
        self._asking += ((seconds - self._asking) / 8) if self._asking else seconds
        share, gain = self._asking / one, expected / (cost + seconds / one)
        self._gain = gain if gain > MARGIN else self._gain + (gain - self._gain) / 4
        if share < CHEAP or self._gain >= 1:
            self._rest = self._left = 0
            return
        self._rest = min(LONGEST_REST, int(share / CHEAP), 2 * self._rest or 2)
        self._left = self._rest
