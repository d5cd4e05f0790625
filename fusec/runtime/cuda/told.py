"""What a drafted step on the device says of itself."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """`made` tokens were made, `drafted` guesses checked, as the kernel `accept` packs them."""

    made: int
    drafted: int

    @classmethod
    def read(cls, word: int) -> Told:
        """Of the lower half of an entry of the log."""
        return cls(word & 31, word >> 5 & 31)
