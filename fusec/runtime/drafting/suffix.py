"""Drafts by suffix match: what came behind the same last tokens, earlier in the same sequence.

Prompt lookup decoding (Saxena 2023), over prompt and output: the last n tokens are looked up in a
hash table, for each of a few n, the longest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import cycle

from fusec.runtime.drafting.drafter import Drafter, Guess, Row

LENGTHS = (8, 5, 3, 2, 1)
"""Tokens of a match that are looked up, the longest first."""

LONGEST = 64  # tokens that a match is measured up to


class Suffix(Drafter):
    """Guesses what followed the most recent occurrence of the longest suffix that has one."""

    def __init__(self) -> None:
        self._sequence: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # tokens -> where those behind them begin

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        known = len(self._sequence)
        if list(sequence[:known]) != self._sequence:  # else it goes on from there
            self._sequence, self._behind, known = [], {}, 0
        self._append(sequence[known:])

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`."""
        self._append(tokens)

    def propose(self, most: int) -> list[Guess]:
        """See `Drafter`. Where the match reaches the end of the sequence, it goes round."""
        found = next((p for n in LENGTHS if (p := self._behind.get(self._last(n)))), 0)
        if not found:
            return []
        matched = self._matched(found)
        confidences = map(confidence_of, range(matched, matched + most))
        return list(map(Guess, cycle(self._sequence[found : found + most]), confidences))

    def _append(self, tokens: Sequence[int]) -> None:
        """Note what each new token follows; it may itself be followed only when there is one."""
        sequence, behind = self._sequence, self._behind
        for token in tokens:
            end = len(sequence)
            last = tuple(sequence[-LENGTHS[0] :])
            for n in LENGTHS:
                if n <= end:
                    behind[last[-n:]] = end
            sequence.append(token)

    def _last(self, n: int) -> tuple[int, ...]:
        return tuple(self._sequence[-n:])

    def _matched(self, place: int) -> int:
        """How many tokens in front of `place` are those at the end of the sequence."""
        longest = min(LONGEST, place)
        there, here = self._sequence[place - longest : place], self._sequence[-longest:]
        pairs = zip(reversed(there), reversed(here), strict=True)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), longest)


@cache
def confidence_of(matched: int) -> float:
    """What a match of so many tokens says: a third for one, four fifths for eight.

    Behind a guess that was right, the match is one token longer.
    """
    return matched / (matched + 2)
