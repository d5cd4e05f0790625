"""The KV cache on a GPU: states, and the tables that kernels read, at addresses that stay.

Captured graphs have these addresses. An entry of a table changes by a fill on the stream, behind
the steps that still need what it was and in front of those that need what it is.
"""

from __future__ import annotations

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.pages import PAGE
from fusec.ir.plan import LaunchPlan
from fusec.runtime.cache import Array, Cache
from fusec.runtime.cuda.memory import Memory
from fusec.runtime.pages import Change, Pages


class CudaCache(Cache):
    """`states` and `tables`: where a state's memory is, and the table of a kind of states."""

    def __init__(self, plan: LaunchPlan, memory: Memory) -> None:
        super().__init__(plan, Pages(plan))
        self._memory = memory
        self._row_bytes = {
            name: dtype(t.dtype).nbytes(t.shape[1:]) for name, t in plan.states.items()
        }
        what = f"the KV cache for {self.pages.context} positions"
        self.states = {
            name: memory.zeros(self.pages.rows(name) * nbytes, what)
            for name, nbytes in self._row_bytes.items()
        }
        self.tables = {
            name: memory.zeros(kind.table.nbytes, "the table of pages")
            for name, kind in self.pages.kinds.items()
        }

    def _place(self, state: str, row: int) -> int:
        return self.states[state] + row * self._row_bytes[state]

    def _read(self, state: str, row: int, count: int) -> Array:
        tensor = self.plan.states[state]
        shape, kind = (count, *tensor.shape[1:]), np.dtype(dtype(tensor.dtype).numpy)
        return self._memory.read(self._place(state, row), shape, kind)

    def _write(self, state: str, row: int, array: Array) -> None:
        self._memory.write(self._place(state, row), array)

    def _copy(self, state: str, to: int, source: int) -> None:
        nbytes = PAGE * self._row_bytes[state]
        self._memory.copy(self._place(state, to), self._place(state, source), nbytes)

    def _enter(self, change: Change) -> None:
        table = self.pages.kinds[change.kind].table
        entry = change.slot * table.shape[1] + change.number
        self._memory.fill(self.tables[change.kind] + entry * table.itemsize, change.page * PAGE)
