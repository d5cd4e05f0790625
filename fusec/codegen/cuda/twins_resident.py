"""A resident kernel in NumPy: all blocks of the grid, each a thread of Python, one at a time.

A block runs until it waits: for a count that others raise, for a mailbox, for its cluster. Then a
*schedule* chooses who goes on, of those whose wait is over. So a block may run far ahead, or come
last, and what a wait is missing for shows as a wrong value; where nobody can go on, it is a
deadlock. Accesses are not judged by an order here, as `twins_grid` does: the bodies are the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Any

import numpy as np
import numpy.typing as npt

from fusec.codegen.cuda.instructions import GIVEN_UP, TABLE
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import Launch
from fusec.codegen.cuda.twins_arithmetic import Lanes
from fusec.codegen.cuda.twins_memory import CLUSTER_SHIFT, Pointer

Schedule = Callable[[Sequence[int]], int]
"""Chooses a block of those that can go on, in the order of their numbers."""


class Deadlock(RuntimeError):
    """No block can go on."""


def first(ready: Sequence[int]) -> int:
    """The schedule that lets the lowest block go on."""
    return ready[0]


def last(ready: Sequence[int]) -> int:
    """The schedule that lets the highest block go on."""
    return ready[-1]


def shuffled(seed: int) -> Schedule:
    """A schedule that lets any block go on."""
    return random.Random(seed).choice


def run_resident(
    kernel: CudaKernel,
    *arguments: npt.NDArray[Any],
    memory: Sequence[npt.NDArray[Any]],
    schedule: Schedule = first,
    patient: bool = True,
) -> None:
    """Execute a resident kernel. `memory`: the arrays that its table has addresses of.

    Raises Deadlock, or the error of a block. Where it is not `patient`, whoever waits for a count
    in vain gives up instead, as on a GPU after some seconds.
    """
    baton = _Baton(kernel.grid, schedule)
    blocks = [_Block(kernel, number, baton, memory, patient) for number in range(kernel.grid)]
    for block in blocks:
        start = block.number // kernel.cluster * kernel.cluster
        block.meet(blocks[start : start + kernel.cluster])
    with ThreadPoolExecutor(len(blocks)) as pool:
        found = [pool.submit(block.run, *arguments) for block in blocks]
        errors = [e for e in (future.exception() for future in found) if e is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, _Stopped)):
        raise error


class _Stopped(RuntimeError):
    """Another block has failed."""


class _Baton:
    """Who has it runs."""

    def __init__(self, blocks: int, schedule: Schedule) -> None:
        self._ready: dict[int, Callable[[], bool]] = {n: lambda: True for n in range(blocks)}
        self._schedule, self._changed = schedule, Condition()
        self._holder, self._failed = -1, False
        self._waiting = 0

    def begin(self, block: int) -> None:
        """All blocks are here; the schedule chooses the first."""
        with self._changed:
            self._waiting += 1
            if self._waiting == len(self._ready):
                self._pass_on()
            self._await(block)

    def wait(self, block: int, ready: Callable[[], bool]) -> None:
        """Let others run until the schedule chooses this one, once it can go on."""
        with self._changed:
            self._ready[block] = ready
            self._pass_on()
            self._await(block)

    def end(self, block: int, failed: bool) -> None:
        """The block is done."""
        with self._changed:
            self._failed = self._failed or failed
            del self._ready[block]
            if self._ready:
                self._pass_on()

    def _await(self, block: int) -> None:
        self._changed.wait_for(lambda: self._holder == block or self._failed)
        if self._failed:
            raise _Stopped

    def _pass_on(self) -> None:
        able = [n for n, ready in sorted(self._ready.items()) if ready()]
        if not able and not self._failed:
            self._failed = True
            self._changed.notify_all()
            raise Deadlock(f"{len(self._ready)} blocks wait, and nobody can go on")
        if able:
            self._holder = self._schedule(able)
        self._changed.notify_all()


class _Block:
    """One block. `received`, `wanted`: bytes, by mailbox."""

    def __init__(
        self,
        kernel: CudaKernel,
        number: int,
        baton: _Baton,
        memory: Sequence[npt.NDArray[Any]],
        patient: bool,
    ) -> None:
        self.kernel, self.number, self.baton, self.patient = kernel, number, baton, patient
        self.rank = number % kernel.cluster
        self.wanted: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.arrivals = 0
        self.made: set[int] = set()
        self.launch = launch = Launch(1, kernel.threads)
        launch.dynamic = kernel.dynamic
        spans = [(a.ctypes.data, a.reshape(-1).view(np.uint8)) for a in memory]
        device = launch.modules["fusec.codegen.cuda.device"]
        device.block_index = lambda: np.uint32(number)
        device.block_count = lambda: np.uint32(kernel.grid)
        device.cluster_rank = device.cluster_rank_again = lambda: np.uint32(self.rank)
        device.cluster_index_again = lambda: np.uint32(number // kernel.cluster)
        device.cluster_count = lambda: np.uint32(kernel.grid // kernel.cluster)
        device.await_count = self._await_count
        device.mailbox_make_if = device.mailbox_remake_if = self._make
        device.mailbox_expect_if, device.mailbox_wait_bounded = self._expect, self._wait
        device.cluster_arrive, device.cluster_wait = self._arrive, self._cluster_wait
        for kind, itemsize in {
            "f32_at": 4,
            "u8_at": 1,
            "u16_at": 2,
            "u32_at": 4,
            "u64_at": 8,
        }.items():
            setattr(device, kind, _at(spans, itemsize, kernel.threads))

    def meet(self, cluster: list[_Block]) -> None:
        """Let this block reach the others of its cluster."""
        self.cluster = cluster
        device = self.launch.modules["fusec.codegen.cuda.device"]
        for name in TABLE:
            if name.startswith("send_"):
                setattr(device, name, self._send)

    def run(self, *arguments: Any) -> None:
        """Execute it."""
        failed = True
        try:
            self.baton.begin(self.number)
            self.launch._call(self.launch._function(self.kernel), self.kernel, arguments)
            failed = False
        finally:
            self.baton.end(self.number, failed)

    def _await_count(self, count: Pointer, target: Any, live: Any) -> Lanes:
        """The first thread waits, for all."""
        shape = (1, self.kernel.threads)
        (thread,) = np.flatnonzero(np.broadcast_to(live, shape)[0])
        wanted = int(np.broadcast_to(target, shape)[0, thread])
        word = count.memory.view(np.uint32)[int(count.offset[0, thread]) // 4 :][:1]

        def beyond() -> int:
            return (int(word[0]) - wanted + (1 << 31)) % (1 << 32) - (1 << 31)  # of 32 bits

        if self.patient:
            self.baton.wait(self.number, lambda: beyond() >= 0)
        elif beyond() < 0:
            word |= np.uint32(GIVEN_UP)
        found = np.zeros(shape, np.uint32)
        found[0, thread] = beyond() & 0xFFFFFFFF
        return found

    # --- mailboxes -------------------------------------------------------------------------------

    def _make(self, mailbox: Any, live: Any) -> None:
        place = _place(mailbox)
        if self.received[place] != self.wanted[place] and self.received[place]:
            raise ValueError(f"a mailbox with {self.received[place]} bytes is made anew")
        self.made.add(place)
        self.wanted[place] = self.received[place] = 0

    def _expect(self, mailbox: Any, nbytes: Any, live: Any) -> None:
        self.wanted[_place(mailbox)] += int(nbytes)

    def _wait(self, mailbox: Any, _count: Any) -> None:
        place = _place(mailbox)
        self.baton.wait(self.number, lambda: self.received[place] == self.wanted[place])

    def _send(self, address: Any, *given: Any) -> None:
        """A store to mapped addresses, which may name another block in every thread."""
        values, (mailbox, wanted) = given[:-2], given[-2:]
        shape = (1, self.kernel.threads)
        live = np.broadcast_to(wanted, shape) & self.launch.active
        ranks, local = np.divmod(np.broadcast_to(np.asarray(address, np.int64), shape),
                                 1 << CLUSTER_SHIFT)  # fmt: skip
        floats = [np.asarray(value).astype(np.float32) for value in values]
        for rank in np.unique(ranks[live]):
            block, mine = self.cluster[rank - 1], live & (ranks == rank)
            place = _place(mailbox)
            if place not in block.made:
                raise ValueError(f"block {block.number} is sent to before its mailbox is made")
            block.launch.put(np.where(mine, local, 0), floats, mine)
            block.received[place] += 4 * len(floats) * int(mine.sum())

    # --- barriers of the cluster -----------------------------------------------------------------

    def _arrive(self) -> None:
        self.arrivals += 1

    def _cluster_wait(self) -> None:
        turn = self.arrivals
        self.baton.wait(self.number, lambda: all(block.arrivals >= turn for block in self.cluster))


def _place(mailbox: Any) -> int:
    """Where in its block's memory the one mailbox is that all threads name, of whatever block."""
    (place,) = set((np.asarray(mailbox, np.int64) % (1 << CLUSTER_SHIFT)).reshape(-1).tolist())
    return int(place)


def _at(spans: Any, itemsize: int, threads: int) -> Callable[[Any], Pointer]:
    def at(address: Any) -> Pointer:
        (start,) = set(np.asarray(address, np.uint64).reshape(-1).tolist())
        for begin, memory in spans:
            if begin <= start < begin + max(1, memory.size):
                return Pointer(memory, np.full((1, threads), start - begin, np.int64), itemsize)
        raise IndexError(f"the table has an address of nothing: {start:#x}")

    return at
