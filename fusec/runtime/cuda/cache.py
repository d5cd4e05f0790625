"""The KV cache on a GPU: states, and the tables that kernels read, at addresses that stay.

Captured graphs have these addresses. An entry of a table changes by a fill on the stream, behind
the steps that still need what it was and in front of those that need what it is.
"""

from __future__ import annotations

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.pages import kind_of, most_pages
from fusec.ir.plan import LaunchPlan
from fusec.runtime.cache import ROOM, Array, Cache
from fusec.runtime.cuda.memory import Memory
from fusec.runtime.cuda.pools import PoolMemory
from fusec.runtime.pages import Change, Pages


class CudaCache(Cache):
    """`states` and `tables`: where a state's memory is, and the table of a kind of states.

    Memory is taken as pages are first used, where the GPU can do so; else all of it at once, and a
    fork is copied to this machine.
    """

    def __init__(self, plan: LaunchPlan, memory: Memory) -> None:
        grows = memory.grows and bool(plan.states)
        room = ROOM if grows and all(p.reaches for p in pools_of(plan, ROOM).values()) else 1
        self._pools, self._memory = pools_of(plan, room), memory
        apart = {kind: pool.apart for kind, pool in self._pools.items()}
        super().__init__(plan, Pages(plan, room=room, apart=apart, back=self._back))
        nbytes = max((pool.end for pool in self._pools.values()), default=0)
        what = f"the KV cache for {self.pages.context} positions"
        self._range = memory.range(nbytes, what) if grows else None
        self._first = self._range.pointer if self._range else memory.zeros(nbytes, what)
        self.states = {
            state: self._first + place
            for pool in self._pools.values()
            for state, place in pool.places.items()
        }
        self.tables = {
            name: memory.zeros(kind.table.nbytes, "the table of pages")
            for name, kind in self.pages.kinds.items()
        }

    def _back(self, kind: str, pages: int) -> None:
        """Have memory for so many pages of a kind."""
        if self._range is not None:
            stretches = self._pools[kind].stretches(0, pages)
            self._range.need((first, first + nbytes) for first, nbytes in stretches)

    def _place(self, state: str, row: int) -> int:
        pool = self._pools[self.pages.kind_of[state]]
        return self.states[state] + row * pool.row_bytes(state)

    def _read(self, state: str, row: int, count: int) -> Array:
        tensor = self.plan.states[state]
        shape, kind = (count, *tensor.shape[1:]), np.dtype(dtype(tensor.dtype).numpy)
        return self._memory.read(self._place(state, row), shape, kind)

    def _write(self, state: str, row: int, array: Array) -> None:
        self._memory.write(self._place(state, row), array)

    def _copy(self, kind: str, to: int, source: int) -> None:
        pool = self._pools[kind]
        pairs = zip(pool.stretches(to, 1), pool.stretches(source, 1), strict=True)
        for (target, nbytes), (place, _) in pairs:
            self._memory.copy(self._first + target, self._first + place, nbytes)

    def _enter(self, change: Change) -> None:
        table = self.pages.kinds[change.kind].table
        entry = change.slot * table.shape[1] + change.number
        value = int(table[change.slot, change.number])
        self._memory.fill(self.tables[change.kind] + entry * table.itemsize, value)


def pools_of(plan: LaunchPlan, room: int) -> dict[str, PoolMemory]:
    """Kind -> the memory of its pool, one behind the other, for so many sequences."""
    found: dict[str, PoolMemory] = {}
    end = 0
    for window in sorted(set(plan.windows.values())):
        states = {name: t for name, t in plan.states.items() if plan.windows[name] == window}
        context = min(t.shape[0] for t in plan.states.values())
        pool = PoolMemory(states, most_pages(context, window) * room, end)
        found[kind_of(window)], end = pool, pool.end
    return found
