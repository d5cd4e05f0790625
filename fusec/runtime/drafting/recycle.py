"""Drafts by token recycling: what the model itself took to be likeliest behind a token before.

After Luo et al. 2024. Every row that was computed says something, also those behind a wrong guess.
A step is a chain of rows, so a chain is guessed, where the paper has a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusec.runtime.drafting.drafter import Drafter, Guess, Row

PAIR, SINGLE = 0.6, 0.3
"""How far an entry for two tokens, and one for a token, are trusted."""

MOST = 1 << 16  # entries for two tokens: the oldest go


class Recycle(Drafter):
    """A table of the likeliest next token by the last two tokens, and by the last.

    It outlives a generation: what was computed for one sequence is a guess for the next. `chain`:
    how many it guesses at most, then by the last two tokens alone, as the kernel `draft` does.
    """

    def __init__(self, chain: int | None = None) -> None:
        self._chain = chain
        self._pairs: dict[tuple[int, int], int] = {}
        self._singles: dict[int, int] = {}
        self._last: tuple[int, int] = (-1, -1)

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        self._last = (-1, -1)
        self.move(sequence)

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`."""
        self.enter(self._last[0], rows)
        self.move(tokens)

    def move(self, tokens: Sequence[int]) -> None:
        """The sequence goes on with these tokens, of which nothing is entered yet."""
        self._last = tuple([*self._last, *tokens[-2:]][-2:])  # type: ignore[assignment]

    def enter(self, before: int, rows: Iterable[Row]) -> None:
        """Note what rows have chosen; `before`: the token in front of what the first has read."""
        for row in rows:
            self._singles[row.token] = row.best
            self._pairs.pop((before, row.token), None)  # the newest come last
            self._pairs[before, row.token] = row.best
            before = row.token
        while len(self._pairs) > MOST:
            del self._pairs[next(iter(self._pairs))]

    def propose(self, most: int) -> list[Guess]:
        """See `Drafter`."""
        found: list[Guess] = []
        before, last = self._last
        while len(found) < (most if self._chain is None else min(most, self._chain)):
            guess = self._behind(before, last)
            if guess is None:
                break
            found.append(guess)
            before, last = last, guess.token
        return found

    def _behind(self, before: int, last: int) -> Guess | None:
        if (token := self._pairs.get((before, last))) is not None:
            return Guess(token, PAIR)
        if self._chain is None and (token := self._singles.get(last)) is not None:
            return Guess(token, SINGLE)
        return None
