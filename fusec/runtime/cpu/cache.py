"""The KV cache in this machine's memory, which the system gives as rows are first written."""

from __future__ import annotations

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.pages import PAGE
from fusec.ir.plan import LaunchPlan
from fusec.runtime.cache import ROOM, Array, Cache
from fusec.runtime.pages import Change, Pages


class CpuCache(Cache):
    """`states`: name -> all rows in memory, `[rows, heads, head size]`.

    Kernels read the tables of the bookkeeping itself.
    """

    def __init__(self, plan: LaunchPlan) -> None:
        super().__init__(plan, Pages(plan, room=ROOM))
        self.states = {
            name: np.zeros((self.pages.rows(name), *t.shape[1:]), dtype(t.dtype).numpy)
            for name, t in plan.states.items()
        }

    def table(self, kind: str) -> Array:
        """The table that kernels of a kind of states read."""
        return self.pages.kinds[kind].table

    def _read(self, state: str, row: int, count: int) -> Array:
        return self.states[state][row : row + count].copy()

    def _write(self, state: str, row: int, array: Array) -> None:
        self.states[state][row : row + len(array)] = array

    def _copy(self, kind: str, to: int, source: int) -> None:
        for state, rows in self.states.items():
            if self.pages.kind_of[state] == kind:
                paged = rows.reshape(-1, PAGE, *rows.shape[1:])
                paged[to] = paged[source]

    def _enter(self, change: Change) -> None:
        """Nothing: the table is the bookkeeping's."""
