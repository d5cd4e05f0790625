"""Asynchronous copies under way: their data is not there before the thread has waited for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusec.codegen.cuda.twins_arithmetic import Lanes

POISON = 0xFF  # a float of these is NaN


@dataclass
class _Copy:
    rows: tuple[npt.NDArray[np.int64], ...]  # of (blocks, threads): who copies
    pieces: npt.NDArray[np.int64]  # of 16 bytes: where to
    data: npt.NDArray[np.uint8]  # [copies, 16]
    group: npt.NDArray[np.int64]

    def only(self, kept: npt.NDArray[np.bool_]) -> _Copy:
        """Some of them."""
        rows = tuple(axis[kept] for axis in self.rows)
        return _Copy(rows, self.pieces[kept], self.data[kept], self.group[kept])


class Copies:
    """Of all threads of a launch, `shape` (blocks, threads). Memory is in pieces, [..., 16]."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.committed = np.zeros(shape, np.int64)
        self.under_way: list[_Copy] = []

    def issue(
        self,
        live: npt.NDArray[np.bool_],
        memory: npt.NDArray[np.uint8],
        pieces: npt.NDArray[np.int64],
        data: npt.NDArray[np.uint8],
    ) -> None:
        """Let the threads that are live copy a piece each, `data`."""
        memory[pieces] = POISON
        rows = np.nonzero(live)
        self.under_way.append(_Copy(rows, pieces, data, self.committed[rows]))

    def commit(self, active: npt.NDArray[np.bool_]) -> None:
        """What a thread has issued since its last commit is a group."""
        self.committed[active] += 1

    def wait(
        self,
        active: npt.NDArray[np.bool_],
        memory: npt.NDArray[np.uint8],
        later: int,
        landed: Callable[[tuple[npt.NDArray[np.int64], ...], Lanes], None],
    ) -> None:
        """All groups of a thread but the last `later` are there; negative: what is no group too.

        `landed` is told whose they are and where.
        """
        left = []
        for copy in self.under_way:
            ready = active[copy.rows] & (copy.group < self.committed[copy.rows] - later)
            done = copy.only(ready)
            memory[done.pieces] = done.data
            landed(done.rows, done.pieces)
            if not ready.all():
                left.append(copy.only(~ready))
        self.under_way = left
