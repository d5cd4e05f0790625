"""Which barriers a kernel cannot do without: memory of a launch of the twins, watched.

The twins run all threads in lock step, so a barrier that is missing changes no value there. Here
every byte knows which warp wrote it and which read it since the block last met at a barrier. Two
warps at one byte with no barrier in between, one of them writing, are a race. Memory outside of the
block is watched from a block's first write to it. What happens within a warp is not watched, nor
between blocks, nor are atomic additions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from fusec.codegen.cuda import twins_grid
from fusec.codegen.cuda.twins import Launch, Pointer

NOBODY, SEVERAL = -1, -2
MEET = ("barrier", "barrier_named", "cluster_wait", "mailbox_wait")


class Race(Exception):
    """What two warps do to a byte without a barrier in between."""


class Traffic:
    """Who wrote and who read each byte of a memory."""

    def __init__(self, size: int = 0) -> None:
        self.writer = self.reader = np.zeros(0, np.int16)
        self.grow(size)

    def grow(self, size: int) -> None:
        more = np.full(size - len(self.writer), NOBODY, np.int16)
        self.writer = np.concatenate([self.writer, more])
        self.reader = np.concatenate([self.reader, more])

    def forget(self) -> None:
        self.writer[:] = self.reader[:] = NOBODY

    def read(self, index: Any, warps: Any) -> None:
        _check(self.writer[index], warps, index, "reads", "wrote")
        before = self.reader[index]
        self.reader[index] = np.where((before == NOBODY) | (before == warps), warps, SEVERAL)
        self.reader[index[self.reader[index] != warps]] = SEVERAL  # several warps just now

    def write(self, index: Any, warps: Any) -> None:
        _check(self.reader[index], warps, index, "writes", "read")
        _check(self.writer[index], warps, index, "writes", "wrote")
        self.writer[index] = warps


def _check(others: Any, warps: Any, index: Any, now: str, before: str) -> None:
    races = (others != NOBODY) & (others != warps)
    if np.any(races):
        at = int(np.argmax(races))
        raise Race(f"warp {warps[at]} {now} byte {index[at]}, which warp {others[at]} {before}")


class Watched(Launch):
    """A launch of one block that raises Race."""

    def __init__(self, blocks: int, threads: int, cluster: int = 1) -> None:
        super().__init__(blocks, threads, cluster)
        assert blocks == 1
        self.begin()
        self.local = threading.local()
        self.warp = np.arange(threads, dtype=np.int16)[:, None] // 32
        device = self.modules["fusec.codegen.cuda.device"]
        for name in MEET:
            setattr(device, name, self._met(getattr(device, name)))

    def begin(self) -> None:
        """A new block, whose shared memory nobody has touched."""
        self.own, self.outside = Traffic(), dict[int, Traffic]()

    def _met(self, meet: Any) -> Any:
        def met(*given: Any) -> Any:
            result = meet(*given)
            for traffic in (self.own, *self.outside.values()):
                traffic.forget()
            return result

        return met

    def _locate(self, address: Any, nbytes: int, live: Any = None) -> Any:
        memory, index = super()._locate(address, nbytes, live)
        if hasattr(self.local, "foreign"):
            return memory, index
        if isinstance(address, Pointer):
            where = memory.ctypes.data
            if live is not None and where not in self.outside:
                self.outside[where] = Traffic(memory.size)
            traffic = self.outside.get(where)
        else:
            traffic = self.own
            traffic.grow(memory.size)
        if traffic is not None:
            warps = np.broadcast_to(self.warp, index[0].shape)
            used = np.s_[:] if live is None else live[0]
            note = traffic.read if live is None else traffic.write
            note(index[0][used].ravel(), warps[used].ravel())
        return memory, index


@contextmanager
def watched() -> Iterator[None]:
    """Grids run by the twins meanwhile are watched."""
    begin, receive = twins_grid._Block.begin, twins_grid._Block.receive

    def anew(self: Any, first: int) -> None:
        self.launch.begin()
        begin(self, first)

    def from_outside(self: Any, *given: Any) -> None:
        self.launch.local.foreign = True  # in the sender's thread
        try:
            receive(self, *given)
        finally:
            del self.launch.local.foreign

    with (
        mock.patch.object(twins_grid, "Launch", Watched),
        mock.patch.object(twins_grid._Block, "begin", anew),
        mock.patch.object(twins_grid._Block, "receive", from_outside),
    ):
        yield
