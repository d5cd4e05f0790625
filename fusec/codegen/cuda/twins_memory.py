"""The memory of a launch of NumPy twins: global arrays, shared memory, and copies on their way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.codegen.cuda.twins_arithmetic import Lanes
from fusec.codegen.cuda.twins_branches import Branches
from fusec.codegen.cuda.twins_copies import POISON, Copies
from fusec.codegen.cuda.twins_history import History
from fusec.codegen.cuda.twins_order import Order

CLUSTER_SHIFT = 24  # a mapped shared address has the rank plus one above it


_NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Pointer:
    """A global address per thread: byte offsets into an array's memory."""

    memory: npt.NDArray[np.uint8]
    offset: Lanes
    itemsize: int
    history: History | None = None  # where its accesses are kept


@dataclass(frozen=True)
class Chosen:
    """Of two pointers, one for each thread: `yes` where `condition` holds. Loads alone take it."""

    condition: Lanes
    yes: Pointer | Chosen
    no: Pointer | Chosen


def moved(pointer: Pointer | Chosen, index: Any) -> Pointer | Chosen:
    """`at`: so many elements behind the pointer."""
    if isinstance(pointer, Chosen):
        yes, no = moved(pointer.yes, index), moved(pointer.no, index)
        return Chosen(pointer.condition, yes, no)
    offset = pointer.offset + np.asarray(index, np.int64) * pointer.itemsize
    return Pointer(pointer.memory, offset, pointer.itemsize, pointer.history)


class Memory:
    """Of so many blocks and threads; of one block, its `order` is told of all accesses."""

    def __init__(self, blocks: int, threads: int, cluster: int) -> None:
        self.blocks, self.threads, self.cluster = blocks, threads, cluster
        self.dynamic = 0  # bytes of shared memory that the launch asks for
        self.order: Order | None = None
        self.branches = Branches((blocks, threads))
        self.restart()

    def restart(self) -> None:
        """Forget what was run: no shared memory, no copies, no branches."""
        self.shared = np.zeros((self.blocks, 0), np.uint8)
        self.declared = 0  # bytes of it
        self.branches.restart()
        self.copies = Copies((self.blocks, self.threads))

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """The threads that run what comes, (blocks, threads)."""
        return self.branches.active

    def _shared_bytes(self, count: int) -> Lanes:
        start = self.shared.shape[1]
        self.declared = start + count
        fresh = np.full((self.blocks, -(-count // 128) * 128), 0xA5, np.uint8)  # not zero by luck
        self.shared = np.concatenate([self.shared, fresh], axis=1)
        if self.order is not None:
            self.order.shared.grow(-(-self.declared // 4))
        return np.full((self.blocks, self.threads), start, np.uint32)

    def _dynamic_shared(self) -> Lanes:
        return self._shared_bytes(self.dynamic)

    def get(
        self,
        address: Any,
        element: np.dtype[Any],
        width: int,
        noted: bool = False,
        live: npt.NDArray[np.bool_] | None = None,
    ) -> Lanes:
        """Load that many values side by side; `live`: the threads that mean it, or all that run.

        Others load as well, since what they had before may be the same: zeros, where it would be
        outside of the memory.
        """
        live = self.active if live is None else live
        if isinstance(address, Chosen):
            chosen = _spread(address.condition, live.shape)
            yes = self.get(address.yes, element, width, noted, live & chosen)
            no = self.get(address.no, element, width, noted, live & ~chosen)
            return np.where(chosen[..., None], yes, no)
        memory, place = self.locate(address, element.itemsize * width, live)
        there = place >= 0
        values = memory.view(element).reshape(-1, width)[np.where(there, place, 0)]
        values = np.where(there[..., None], values, element.type(0))
        if noted:
            late = self.note(address, element.itemsize * width, live)
            values.view(np.uint8)[:, late] = POISON
        return values

    def put(
        self, address: Any, values: list[Lanes], live: npt.NDArray[np.bool_], noted: bool = False
    ) -> None:
        """Store values side by side, by the threads that are live."""
        if not live.any():
            return
        given = np.stack([_spread(value, live.shape)[live] for value in values], axis=-1)
        memory, place = self.locate(address, given.itemsize * len(values), live)
        there = memory.view(given.dtype).reshape(-1, len(values))
        if noted:
            stored = there[place[live]].view(np.uint8), given.view(np.uint8)
            self.note(address, given.itemsize * len(values), live, stored)
        there[place[live]] = given

    def note(
        self, address: Any, nbytes: int, live: npt.NDArray[np.bool_], stored: Any = None
    ) -> npt.NDArray[np.int64]:
        """Tell the order of an access to shared memory or to an array that it knows.

        `stored`: of a store, the bytes that it finds and those that it leaves, [accesses, nbytes].
        Of a load, threads that are given `POISON` come back.
        """
        assert self.order is not None
        if not isinstance(address, Pointer):
            access = self.order.of_shared(live[0], self._own(address), nbytes, stored)
            (self.order.write if stored else self.order.read)(self.order, access)
        elif address.history is not None:
            history, unit = address.history, address.history.unit
            offset = _spread(address.offset, (1, self.threads))[0]
            units = offset[:, None] // unit + np.arange(max(1, nbytes // unit))
            access = self.order.access(live[0], units, stored)
            if stored:
                self.order.global_write(history, access)
            else:
                return self.order.global_read(history, access)
        return _NOBODY

    def _own(self, address: Any) -> npt.NDArray[np.int64]:
        """Addresses in the shared memory of the one block."""
        return _spread(np.asarray(address, np.int64), (1, self.threads))[0]

    def locate(
        self, address: Any, nbytes: int, live: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Memory in pieces of `nbytes` bytes, and which one is each thread's.

        Bounds and alignment are checked, of the threads that are live; of others, what is outside
        is piece -1.
        """
        if isinstance(address, Pointer):
            memory, offset = address.memory, address.offset
            fault = (offset < 0) | (offset + nbytes > memory.size)
            aligned = offset
        else:
            offset = np.asarray(address, np.int64)
            aligned = offset & ((1 << CLUSTER_SHIFT) - 1)
            fault = aligned + nbytes > self.declared
            if self.blocks > 1 or self.cluster > 1:
                own = np.arange(self.blocks)[:, None]
                mapped = offset >> CLUSTER_SHIFT
                block = np.where(mapped > 0, own // self.cluster * self.cluster + mapped - 1, own)
                offset = block * self.shared.shape[1] + aligned
            memory = self.shared.reshape(-1)
        used: Any = True if live is None else live
        if np.any(fault & used):
            where = "global access outside the array"
            if not isinstance(address, Pointer):
                where = "shared-memory access beyond what the kernel declared"
            raise IndexError(where)
        if np.any((aligned % nbytes != 0) & used):
            raise IndexError(f"misaligned access of {nbytes} bytes")
        place = np.where(fault, -1, offset // nbytes)
        place = _spread(place, (self.blocks, self.threads))
        return memory[: memory.size // nbytes * nbytes], place

    def _atomic_add_shared(self, address: Any, value: Any, condition: Any) -> Lanes:
        shape = (self.blocks, self.threads)
        address, value, live = (np.broadcast_to(x, shape) for x in (address, value, condition))
        live = live & self.active
        if self.order is not None:
            self.order.add(self.order.of_shared(live[0], self._own(address), 4))
        before = np.zeros(shape, np.uint32)
        for block, thread in zip(*np.nonzero(live), strict=True):
            place = int(address[block, thread])
            word = self.shared[block, place : place + 4].view(np.uint32)
            before[block, thread] = word[0]
            word += np.uint32(value[block, thread])
        return before

    def _red_add(self, address: Pointer, value: Any, condition: Any) -> None:
        """`red.relaxed`: additions commute, whoever makes them; nobody learns what was there."""
        shape = (self.blocks, self.threads)
        live = self.active & _spread(condition, shape)
        if not live.any():
            return
        memory, place = self.locate(address, 8, live)
        if self.order is not None and address.history is not None:
            units = place[0][:, None] * 8 // address.history.unit
            self.order.global_add(address.history, self.order.access(live[0], units))
        given = _spread(np.asarray(value, np.uint64), shape)
        np.add.at(memory.view(np.uint64), place[live], given[live])

    def _copy_async(
        self, target: Lanes, source: Pointer, live: Any = True, zeros: bool = False
    ) -> None:
        wanted = self.active & live
        live = self.active if zeros else wanted
        if not live.any():
            return
        offset = np.where(wanted, source.offset, 0)
        given, place = self.locate(Pointer(source.memory, offset, source.itemsize), 16)
        if self.order is not None:
            self.order.write(self.order, self.order.of_shared(live[0], self._own(target), 16), True)
        memory, into = self.locate(target, 16, live)
        pieces = np.where(wanted[live][:, None], given.reshape(-1, 16)[place[live]], 0)
        self.copies.issue(live, memory.reshape(-1, 16), into[live], pieces)

    def _copy_wait(self, later: int) -> None:
        memory = self.shared.reshape(-1, 16)
        self.copies.wait(self.active, memory, later, self._copy_landed)

    def _copy_landed(self, rows: tuple[npt.NDArray[np.int64], ...], pieces: Lanes) -> None:
        if self.order is not None:
            self.order.landed(rows[1], pieces[:, None] * 4 + np.arange(4))


def _spread(value: Any, shape: tuple[int, ...]) -> Lanes:
    """`broadcast_to`, which takes its time, where it does anything."""
    value = np.asarray(value)
    return value if value.shape == shape else np.broadcast_to(value, shape)
