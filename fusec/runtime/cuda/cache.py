"""The KV cache on a GPU: states, and the tables that kernels read, at addresses that stay.

Captured graphs have these addresses. An entry of a table changes by a fill on the stream, behind
the steps that still need what it was and in front of those that need what it is.
"""

from __future__ import annotations

import math

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.pages import PAGE, most_pages
from fusec.ir.plan import LaunchPlan
from fusec.runtime.cache import ROOM, Array, Cache
from fusec.runtime.cuda.memory import Memory
from fusec.runtime.cuda.window import offsets
from fusec.runtime.pages import Change, Pages


class CudaCache(Cache):
    """`states` and `tables`: where a state's memory is, and the table of a kind of states.

    Memory is taken as pages are first used, where the GPU can do so; else all of it at once, and a
    fork is copied to this machine.
    """

    def __init__(self, plan: LaunchPlan, memory: Memory) -> None:
        grows = memory.grows and bool(plan.states)
        room = ROOM if grows and _fits(plan, ROOM) else 1
        super().__init__(plan, Pages(plan, room=room, back=self._back))
        self._memory = memory
        self._row_bytes = {
            name: dtype(t.dtype).nbytes(t.shape[1:]) for name, t in plan.states.items()
        }
        self._offsets, end = offsets(self.pages.rows(n) * b for n, b in self._row_bytes.items())
        what = f"the KV cache for {self.pages.context} positions"
        self._range = memory.range(end, what) if grows else None
        first = self._range.pointer if self._range else memory.zeros(end, what)
        self.states = {
            name: first + offset for name, offset in zip(plan.states, self._offsets, strict=True)
        }
        self.tables = {
            name: memory.zeros(kind.table.nbytes, "the table of pages")
            for name, kind in self.pages.kinds.items()
        }

    def _back(self, kind: str, pages: int) -> None:
        """Have memory for so many pages of each state of a kind."""
        if self._range is None:
            return
        starts = zip(self.pages.kind_of.items(), self._offsets, strict=True)
        self._range.need(
            (start, start + min(pages * PAGE, self.pages.rows(name)) * self._row_bytes[name])
            for (name, of), start in starts
            if of == kind
        )

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


def _fits(plan: LaunchPlan, room: int) -> bool:
    """Whether kernels, whose offsets have 32 bits, reach the elements of so many sequences."""
    pages = {name: most_pages(t.shape[0], plan.windows[name]) for name, t in plan.states.items()}
    elements = (room * pages[n] * PAGE * math.prod(t.shape[1:]) for n, t in plan.states.items())
    return max(elements, default=0) < 1 << 32
