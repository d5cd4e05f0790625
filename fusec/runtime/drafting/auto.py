"""Drafts by suffix match where it is sure, by recycling elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fusec.runtime.drafting.drafter import Drafter, Guess, Row
from fusec.runtime.drafting.recycle import PAIR, Recycle
from fusec.runtime.drafting.suffix import Suffix


class Auto(Drafter):
    """The guesses of whoever is surer of the next token. `chain`: see `Recycle`."""

    def __init__(self, chain: int | None = None) -> None:
        self._suffix, self._recycle = Suffix(), Recycle(chain)

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        self._suffix.begin(sequence)
        self._recycle.begin(sequence)

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`."""
        self._suffix.seen(tokens, rows)
        self._recycle.seen(tokens, rows)

    def propose(self, most: int) -> Sequence[Guess]:
        """See `Drafter`."""
        return surer(self._suffix, self._recycle.propose, most)


def surer(suffix: Suffix, other: Callable[[int], Sequence[Guess]], most: int) -> Sequence[Guess]:
    """The copied guesses where they are sure; else the surer of these and the `other` ones."""
    copied = suffix.propose(most)
    if copied and copied[0].confidence > PAIR:
        return copied
    return max(copied, other(most), key=lambda found: found[0].confidence if found else 0.0)
