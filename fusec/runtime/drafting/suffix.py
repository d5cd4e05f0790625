"""Drafts by suffix match: what came behind the same last tokens, earlier in the same sequence.

Prompt lookup decoding (Saxena 2023), over prompt and output. Places where two tokens stand one
behind the other form a chain, the newest first, as in LZ77; the longest match is looked for in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from fusec.runtime.drafting.drafter import Drafter, Guess, Row

LONGEST = 64  # tokens that a match is measured up to
PLACES = 32  # of a chain that are looked at, the newest


class Suffix(Drafter):
    """Guesses what followed the longest match, of equally long ones the most recent.

    `matched`: its tokens, 0 where there is none. `place`: of the token behind it in `sequence`.
    """

    def __init__(self) -> None:
        self.sequence: list[int] = []
        self._forget()

    def _forget(self) -> None:
        self.place = self.matched = 0
        self._pairs: dict[tuple[int, int], int] = {}  # two tokens -> the newest place behind them
        self._tokens: dict[int, int] = {}  # a token -> the same
        self._before = [0]  # place -> the one before it behind the same two tokens

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        known = len(self.sequence)
        if list(sequence[:known]) != self.sequence:  # else it goes on from there
            self.sequence, known = [], 0
            self._forget()
        self.sequence += sequence[known:]
        self._search()

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`. Where the match goes on, no longer one can begin; else one is searched."""
        self.sequence += tokens
        behind = self.place + len(tokens)
        if self.matched and self.sequence[self.place : behind] == list(tokens):
            self.place, self.matched = behind, min(LONGEST, self.matched + len(tokens))
        else:
            self._search()

    def propose(self, most: int) -> list[Guess]:
        """See `Drafter`. Where the match reaches the end of the sequence, it goes round."""
        if not self.matched:
            return []
        source = cycle(self.sequence[self.place : self.place + most])
        return list(map(Guess, source, confidences(self.matched, most)))

    def enter(self) -> None:
        """Note what stands behind each token and pair. `_search` does it too, but then it waits."""
        sequence, pairs, before = self.sequence, self._pairs, self._before
        for place in range(len(before), len(sequence)):
            pair = sequence[place - 2] if place > 1 else -1, sequence[place - 1]
            self._tokens[pair[1]] = place
            before.append(pairs.get(pair, 0))
            pairs[pair] = place

    def _search(self) -> None:
        """The longest match of all that ends with the last two tokens, or with the last."""
        self.enter()
        sequence = self.sequence
        if not sequence:
            return
        self.place = self._tokens.get(sequence[-1], 0)
        self.matched = min(1, self.place)
        place = self._pairs.get((sequence[-2], sequence[-1]), 0) if len(sequence) > 1 else 0
        for _ in range(PLACES):
            if not place or self.matched == LONGEST:
                break
            if (matched := self._matches(place)) > self.matched:
                self.place, self.matched = place, matched
            place = self._before[place]

    def _matches(self, place: int) -> int:
        """How many tokens in front of `place` are those at the end of the sequence: 2 or more."""
        sequence, matched, longest = self.sequence, 2, min(LONGEST, place)
        while matched < longest and sequence[place - 1 - matched] == sequence[-1 - matched]:
            matched += 1
        return matched


def confidence_of(matched: int) -> float:
    """What a match of so many tokens says: a third for one, four fifths for eight.

    Behind a guess that was right, the match is one token longer.
    """
    return matched / (matched + 2)


_CONFIDENCES = [confidence_of(matched) for matched in range(4 * LONGEST)]


def confidences(matched: int, count: int) -> list[float]:
    """Of so many guesses one behind the other, the first of which follows such a match."""
    return _CONFIDENCES[matched : matched + count]
