"""The KV cache of one engine: its pages' bookkeeping, and what every target does with their memory.

A target has the memory of the states and of the tables. It says how rows are read, written and
copied there, and how an entry of a table is changed; all else is the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.plan import LaunchPlan
from fusec.runtime.pages import Change, Kept, Pages

Array = np.ndarray[Any, Any]

SLOT = 0  # of an engine's one sequence
ROOM = 2  # sequences: the engine's own, and one that it was forked from


class Cache(ABC):
    """The states of a plan, and of all plans of the same model. `pages`: who holds which."""

    def __init__(self, plan: LaunchPlan, pages: Pages) -> None:
        self.plan, self.pages = plan, pages

    def reach(self, first: int, end: int) -> None:
        """Make room for positions `first` to `end - 1`. Raises OutOfPages where there is none."""
        self._apply(self.pages.reach(SLOT, first, end))

    def cut(self, position: int) -> None:
        """Forget what lies from `position` on."""
        self.pages.cut(SLOT, position)

    def oldest(self, position: int) -> int:
        """See `Pages.oldest`."""
        return self.pages.oldest(SLOT, position)

    def keep(self) -> Kept | None:
        """Hold the sequence for `resume`; None where there is no room for another one beside it."""
        return self.pages.keep(SLOT) if self.pages.has_room_for_fork() else None

    def resume(self, kept: Kept) -> None:
        """Take up a sequence that was kept, instead of the present one."""
        self._apply(self.pages.resume(SLOT, kept))

    def read(self, position: int) -> dict[str, Array]:
        """State -> copies of the rows that are held, the last one that of `position - 1`."""
        found = {}
        for name in self.plan.states:
            begin = self.pages.begin(SLOT, name, position)
            runs = self.pages.runs(SLOT, name, begin, position)
            parts = [self._read(name, run.row, run.length) for run in runs]
            found[name] = np.concatenate(parts) if parts else self._read(name, 0, 0)
        return found

    def write(self, states: Mapping[str, Array], position: int) -> None:
        """Take up a sequence of so many tokens that `read` gave, and `check` found right."""
        begins = {self.pages.kind_of[name]: position - len(a) for name, a in states.items()}
        self.cut(0)
        self._apply(self.pages.fill(SLOT, begins, position))
        for name, array in states.items():
            before = position - len(array)  # the array's first row
            begin = max(before, self.pages.begin(SLOT, name, position))
            for first, row, length in self.pages.runs(SLOT, name, begin, position):
                self._write(name, row, array[first - before : first - before + length])

    def check(self, states: Mapping[str, Array], position: int) -> None:
        """Raise FusecError unless these are the states of a sequence of so many tokens."""
        plan = self.plan
        if set(states) != set(plan.states):
            raise FusecError(
                f"{plan.name}: expected the states {', '.join(plan.states)}, found "
                f"{', '.join(states)}"
            )
        for name, tensor in plan.states.items():
            kind, window = dtype(tensor.dtype).numpy, plan.windows[name]
            least = min(position, window - 1) if window else position
            found = states[name]
            shaped = found.shape[1:] == tensor.shape[1:] and least <= len(found) <= position
            if found.dtype != kind or not shaped or not 0 <= position <= tensor.shape[0]:
                wanted = ", ".join(map(str, (least, *tensor.shape[1:])))
                raise FusecError(
                    f"{plan.name}: expected state {name} as {kind}[{wanted}] or more rows up to "
                    f"{position}, found {found.dtype}{list(found.shape)}"
                )

    def _apply(self, changes: Iterable[Change]) -> None:
        """Do what the bookkeeping has decided."""
        for change in changes:
            if change.copied is not None:
                self._copy(change.kind, change.page, change.copied)
            self._enter(change)

    @abstractmethod
    def _read(self, state: str, row: int, count: int) -> Array:
        """A copy of rows of a state in memory."""

    @abstractmethod
    def _write(self, state: str, row: int, array: Array) -> None:
        """Put an array into a state's memory, from a row on."""

    @abstractmethod
    def _copy(self, kind: str, to: int, source: int) -> None:
        """Copy a page of the pool to another."""

    @abstractmethod
    def _enter(self, change: Change) -> None:
        """Bring the entry of the table that kernels read up to date."""
