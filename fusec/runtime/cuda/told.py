"""What a drafted step on the device says of itself."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """What a drafted step says of itself, as the kernel `accept` packs it.

    `made` tokens were made; `drafted` guesses checked, which came from the table of pairs or
    followed a match of `match` tokens. `suffix` and `pair`: whether the first guess of either was
    right, also where it was not checked; None where there was none.
    """

    made: int
    drafted: int
    match: int
    recycled: bool
    suffix: bool | None
    pair: bool | None

    @classmethod
    def read(cls, word: int) -> Told:
        """Of the lower half of an entry of the log."""
        suffix = bool(word >> 17 & 1) if word >> 16 & 1 else None
        pair = bool(word >> 19 & 1) if word >> 18 & 1 else None
        made, drafted, match = (word >> shift & 31 for shift in (0, 5, 10))
        return cls(made, drafted, match, bool(word >> 15 & 1), suffix, pair)

    @property
    def accepted(self) -> int:
        """Guesses that were right."""
        return max(0, self.made - 1)
