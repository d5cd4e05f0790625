"""How the lanes that share a cached row in attention have it among themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pieces:
    """Rows of `size` elements for eight lanes: each has up to `parts` pieces of `piece` elements.

    `tag`: what tells the names of their variables from others.
    """

    size: int
    tag: str = ""

    @property
    def piece(self) -> int:
        """Elements that a lane takes at once."""
        return next(n for n in (8, 4, 2) if self.size % n == 0)

    @property
    def parts(self) -> int:
        """Pieces of a lane."""
        return -(-self.size // (8 * self.piece))

    def is_ragged(self, c: int) -> bool:
        """Whether some lanes have nothing of part c."""
        return 8 * (c + 1) * self.piece > self.size
