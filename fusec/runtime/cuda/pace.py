"""Which graph a generation with drafted tokens enqueues next, and how deep the device guesses.

The device looks for a match at every drafted step and says how long it was, how many guesses were
checked and how many were right. The host makes of it a table, which the device follows: the number
of guesses by the length of the match. Where no step pays, plain graphs run, and every so often one
that only looks, which costs little more.
"""

from __future__ import annotations

import numpy as np

from fusec.codegen.cuda.drafting import CLASSES, LONGEST, RECYCLED
from fusec.runtime.cuda.told import Told
from fusec.runtime.drafting.depth import MARGIN, Acceptance, Cost
from fusec.runtime.drafting.recycle import PAIR
from fusec.runtime.drafting.suffix import confidence_of
from fusec.runtime.session import Array

MOST_CHAINED = 3  # guesses from the table of pairs
REVIEW = 8  # drafted steps after which the table is made again
LONGEST_WAIT = 8  # plain graphs between two that look for a match


class Pace:
    """For generations of one engine, with `most` guesses a step, from either source or both."""

    def __init__(
        self, most: int, *, suffix: bool = True, recycle: bool = True, cost: Cost | None = None
    ) -> None:
        self.cost = cost or Cost()
        self._most, self._uses = most, (suffix, recycle)
        self._suffixes, self._pairs = Acceptance(), Acceptance()
        self._last: Told | None = None
        self._seen = self._left = 0
        self._every = 1
        self.depths = self._table()

    def begin(self) -> None:
        """A generation starts: look for a match at once."""
        self._last, self._left, self._every = None, 0, 1

    def learn(self, told: Told) -> bool:
        """A drafted step is done. Whether `depths` has changed."""
        if told.drafted:
            share, confidence = self._source(told)
            for n in range(min(told.accepted + 1, told.drafted)):
                share.learn(confidence, n < told.accepted)
        if told.suffix is not None and (told.recycled or not told.drafted):
            self._suffixes.learn(confidence_of(told.match), told.suffix)
        if told.pair is not None and not (told.recycled and told.drafted):
            self._pairs.learn(PAIR, told.pair)
        self._last = told
        self._seen += 1
        if self._seen % REVIEW:
            return False
        before, self.depths = self.depths, self._table()
        return before.tobytes() != self.depths.tobytes()

    def width(self) -> int:
        """Rows of the next graph: 0 is a plain one, and 1 one that only looks for a match."""
        if depth := self._expected():
            self._left, self._every = 0, 1
            return 1 << depth.bit_length()
        self._left -= 1
        if self._left >= 0:
            return 0
        if self.depths[RECYCLED]:  # plain graphs tell the table of pairs nothing
            return 1
        self._left = self._every
        self._every = min(LONGEST_WAIT, 2 * self._every)
        return 1

    def _expected(self) -> int:
        """How many guesses the next step has if the text goes on as it did in the last one."""
        told = self._last
        if told is None:
            return 0
        all_right = told.accepted == told.drafted
        suffix = told.suffix if not told.drafted or told.recycled else all_right
        pair = all_right if told.drafted and told.recycled else told.pair
        longer = int(self.depths[min(LONGEST, told.match + told.made)]) if suffix else 0
        return longer or (int(self.depths[RECYCLED]) if pair else 0)

    def _source(self, told: Told) -> tuple[Acceptance, float]:
        if told.recycled:
            return self._pairs, PAIR
        return self._suffixes, confidence_of(told.match)

    def _table(self) -> Array:
        """uint32[CLASSES]: guesses worth checking behind a match of each length, and of pairs."""
        found = np.zeros(CLASSES, np.uint32)
        suffix, recycle = self._uses
        if suffix:
            for length in range(1, LONGEST + 1):
                share = self._suffixes.of(confidence_of(length))
                found[length] = self._depth(share, self._most)
        if recycle:
            found[RECYCLED] = self._depth(self._pairs.of(PAIR), min(MOST_CHAINED, self._most))
        return found

    def _depth(self, share: float, most: int) -> int:
        """The number of guesses, each right with this chance, that gives most for its time.

        A graph has 2, 4, 8 or 16 rows, so its guesses are as many as it has room for, or the most.
        """
        best, depth, expected = MARGIN, 0, 1.0
        for n in range(1, most + 1):
            expected += share**n
            width = 1 << n.bit_length()
            if n not in (width - 1, most):
                continue
            if (gain := expected / self.cost.of(width)) > best:
                best, depth = gain, n
        return depth
