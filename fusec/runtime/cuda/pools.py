"""Where the pages of a kind of states lie in memory.

The states' shares of a page lie side by side, and page behind page. So a sequence grows by one
stretch of memory at a time and is copied so, and layers that follow one another read memory that is
near. Where rows of states differ in size, or offsets of 32 bits do not reach over all of them, each
state has its pages for itself. Kernels need not know: a table has a page's first row, whichever way
it lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fusec.ir.dtypes import dtype
from fusec.ir.pages import PAGE
from fusec.ir.plan import Tensor

REACH = 1 << 32  # elements of a state that kernels' offsets reach


@dataclass(frozen=True)
class PoolMemory:
    """A pool of `pages` pages of these states, which begins `start` bytes into the memory."""

    states: Mapping[str, Tensor]
    pages: int
    start: int = 0

    def row_bytes(self, state: str) -> int:
        """Bytes of a row."""
        tensor = self.states[state]
        return dtype(tensor.dtype).nbytes(tensor.shape[1:])

    @property
    def is_together(self) -> bool:
        """Whether a page of all states is one stretch."""
        rows = self.pages * PAGE * len(self.states)
        sizes = {(t.dtype, math.prod(t.shape[1:])) for t in self.states.values()}
        return len(sizes) == 1 and rows * max(size for _, size in sizes) < REACH

    @property
    def apart(self) -> int:
        """Rows from the beginning of a page to that of the next, in any state."""
        return PAGE * len(self.states) if self.is_together else PAGE

    @property
    def reaches(self) -> bool:
        """Whether kernels reach all rows of every state."""
        largest = max(math.prod(t.shape[1:]) for t in self.states.values())
        return self.is_together or self.pages * PAGE * largest < REACH

    @property
    def places(self) -> dict[str, int]:
        """State -> where its first row is, in bytes."""
        found, end = {}, self.start
        for state in self.states:
            found[state] = end
            end += (1 if self.is_together else self.pages) * PAGE * self.row_bytes(state)
        return found

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.pages * PAGE * sum(map(self.row_bytes, self.states))

    def stretches(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Where some pages are that follow one another: the first byte, and how many."""
        if self.is_together:
            page = PAGE * sum(map(self.row_bytes, self.states))
            yield self.start + first * page, count * page
            return
        for state, place in self.places.items():
            page = PAGE * self.row_bytes(state)
            yield place + first * page, count * page
