"""Who has read and written each word of a memory, and whether that is in a thread's past.

The last write of a word, and for every warp its last read since. A write that comes after all of
these may forget them: whoever comes after the write comes after them (FastTrack, Flanagan and
Freund 2009).
"""

from __future__ import annotations

from functools import cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

IN_FLIGHT = 1 << 30  # the epoch of what an asynchronous copy still writes: in nobody's past
NOBODY, SEVERAL, FRONT = -1, -2, -3  # numbers of clusters
MANY = 32  # in place of a lane: several lanes of the warp


class RaceError(Exception):
    """Two accesses that nothing orders, or a wait that some thread never comes back from."""


class Access:
    """Accesses of one instruction: `rows` of the clock, whose each are, to `places`, [rows, n].

    `epochs`: of all threads, now. `stored`: of a store, the bytes that it finds and those that it
    leaves, [rows, bytes].
    """

    def __init__(
        self,
        threads: Threads,
        rows: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
        line: int,
        stored: tuple[Any, Any] | None = None,
    ) -> None:
        self.threads, self.line, self.cluster = threads, line, threads.cluster
        self._rows, self._places, self._stored = rows, places, stored
        self._epochs = threads.epochs

    @cached_property
    def units(self) -> npt.NDArray[np.int64]:
        """What they go to; like all below, one after the other."""
        return self._places.ravel()

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Whose they are."""
        return np.repeat(self._rows, self._places.shape[1])

    @cached_property
    def agents(self) -> npt.NDArray[np.int32]:
        """The same, as a history keeps it."""
        return self.threads.agents[self.rows]

    @cached_property
    def epochs(self) -> npt.NDArray[np.int32]:
        """Of their warps."""
        return self._epochs[self.rows]

    @cached_property
    def given(self) -> npt.NDArray[np.uint8] | None:
        """What a store leaves, [accesses, bytes]."""
        return None if self._stored is None else self._stored[1].reshape(len(self.units), -1)

    @cached_property
    def idle(self) -> npt.NDArray[np.bool_] | bool:
        """Whether a store leaves what is there."""
        if self._stored is None or self.given is None:
            return False
        there = self._stored[0].reshape(self.given.shape)
        return np.asarray((there == self.given).all(axis=1))

    def only(self, kept: npt.NDArray[np.bool_]) -> Access:
        """Some of them, of what is no store."""
        return Access(self.threads, self.rows[kept], self.units[kept, None], self.line)


class Threads(Protocol):
    """What a history needs to know of the threads of a block."""

    clock: npt.NDArray[np.int32]
    agents: npt.NDArray[np.int32]  # column * 64 + lane
    epochs: npt.NDArray[np.int32]
    cluster: int
    knows_front: bool


class History:
    """Of `count` units of `unit` bytes; clocks have `columns`.

    `name`: of the array; empty for shared memory, which has many.
    """

    def __init__(self, count: int, unit: int, columns: int, name: str = "") -> None:
        self.unit, self.columns, self.name, self.lock = unit, columns, name, Lock()
        self.agent = np.full(count, -1, np.int32)
        self.epoch = np.zeros(count, np.int32)
        self.cluster = np.full(count, NOBODY, np.int32)
        self.line = np.zeros(count, np.int32)
        self.atomic = np.zeros(count, np.bool_)
        self.any_atomic = self.in_front = False
        self.unsettled = False  # some write of this launch may be in somebody's future
        self.readers = np.full(count, NOBODY, np.int32)  # the cluster that reads it
        self.reader = np.full(count, NOBODY, np.int32)  # the thread that does, or SEVERAL
        self.reads = np.zeros((count, columns), np.int32)  # epoch * 64 + lane
        self.read_line = np.zeros(count, np.int32)
        self.log: list[Access] = []  # reads that are not in there yet

    def fork(self) -> History:
        """What has been written, without what has been read."""
        other = History(len(self.agent), self.unit, self.columns, self.name)
        other.agent[:], other.in_front = self.agent, self.in_front
        return other

    def settle(self) -> None:
        """All accesses so far are in the past of all threads there are."""
        self.unsettled = False
        self.log.clear()
        if self.any_atomic:
            self.atomic[:] = self.any_atomic = False

    def grow(self, count: int) -> None:
        """To that many units."""
        more = History(count, self.unit, self.reads.shape[1])
        for name, old in vars(self).items():
            if isinstance(old, np.ndarray):
                new = getattr(more, name)
                new[: len(old)] = old
                setattr(self, name, new)

    def hand_over(self, front: int, columns: int) -> None:
        """What was written so far is work of the launches in front."""
        written = self.agent >= 0
        self.agent[written], self.epoch[written], self.cluster[written] = front * 64, 1, FRONT
        self.readers[:] = self.reader[:] = NOBODY
        self.columns = columns
        self.reads = np.zeros((len(self.agent), columns), np.int32)
        self.in_front = bool(written.any())
        self.settle()

    # --- accesses: each gives the first fault (entry, how, agent, line), or None ------------------

    def read(self, access: Access) -> Any:
        """A read, of what was written before."""
        found = None
        if self.unsettled or (self.in_front and not access.threads.knows_front):
            found = self._after_write(access)
            if self.any_atomic and found is None:
                changed = access.only(self.atomic[access.units])
                found = self._after_reads(changed, "which was changed by")
                self.atomic[changed.units], self.reads[changed.units] = False, 0
                self.readers[changed.units] = self.reader[changed.units] = NOBODY
        self.log.append(access)
        return found

    def write(self, access: Access, epoch: int | None = None, agent: int | None = None) -> Any:
        """A write. `epoch` and `agent`: of it, if they are not those of the threads."""
        found = self._after_write(access)
        found = self._after_reads(access, "which was read by") if found is None else found
        if found is None:
            self._note_write(access, epoch, agent)
            found = self._at_once(access) if agent is None else None
        return found

    def atomic_add(self, access: Access) -> Any:
        """An atomic change: those of other threads need no order."""
        self._note_reads()
        plain = access.only(~self.atomic[access.units])
        found = self._after_write(plain)
        found = self._after_reads(plain, "which was read by") if found is None else found
        if found is None:
            self._note_write(plain, None, None)
            self.atomic[access.units] = self.any_atomic = True
            self.log.append(access)
        return found

    def land(self, access: Access) -> None:
        """Copies on their way are there now, for their threads."""
        self.epoch[access.units] = access.epochs

    def outlasts(
        self, known: npt.NDArray[np.int32], rank: int, warps: int
    ) -> tuple[str, int] | None:
        """Whether other blocks' accesses are not in the past of the whole block, `known`."""
        own = np.arange(rank * warps, (rank + 1) * warps)
        self._note_reads()
        column = self.agent >> 6
        foreign = (self.agent >= 0) & ~np.isin(column, own)
        late = foreign & (self.epoch >= known[column])
        if late.any():
            return "written", int(self.line[np.argmax(late)])
        reads = (self.reads > 0) & (self.reads >> 6 >= known)
        reads[:, own] = False
        if reads.any():
            return "read", int(self.read_line[np.argmax(reads.any(axis=1))])
        return None

    def _after_write(self, access: Access) -> Any:
        agent, epoch = self.agent[access.units], self.epoch[access.units]
        cluster = self.cluster[access.units]
        fine = access.threads.clock[access.rows, agent >> 6] > epoch
        fine |= (agent == access.agents) & (epoch < IN_FLIGHT)
        fine &= (cluster == access.cluster) | (cluster == FRONT)
        fine |= agent < 0
        fine |= access.idle & (epoch < IN_FLIGHT)
        if self.any_atomic:
            fine |= self.atomic[access.units]  # the reads know more
        if fine.all():
            return None
        at = int(np.argmin(fine))
        how = "being copied to by" if epoch[at] == IN_FLIGHT else "which was written by"
        if cluster[at] == access.cluster or cluster[at] == FRONT:
            return at, how, int(agent[at]), int(self.line[access.units[at]])
        how += f" block {cluster[at]} or one of its cluster"
        return at, how, -1, int(self.line[access.units[at]])

    def _at_once(self, access: Access) -> Any:
        """Threads that write one unit by one instruction must leave the same there."""
        last = self.agent[access.units] != access.agents
        for at in np.flatnonzero(last):
            beside = np.flatnonzero(access.units == access.units[at])[-1]
            if access.given is None or np.any(access.given[at] != access.given[beside]):
                return int(at), "as does at once", int(access.agents[beside]), access.line
        return None

    def _after_reads(self, access: Access, how: str) -> Any:
        self._note_reads()
        readers = self.readers[access.units]
        elsewhere = (readers != access.cluster) & (readers != NOBODY)
        if elsewhere.any():
            at = int(np.argmax(elsewhere))
            return at, f"{how} another block", -1, int(self.read_line[access.units[at]])
        reader = self.reader[access.units]
        some = np.flatnonzero((reader != access.agents) & (reader != NOBODY))
        if not len(some):
            return None
        reads = self.reads[access.units[some]]
        late = (reads > 0) & (reads >> 6 >= access.threads.clock[access.rows[some]])
        if not late.any():
            return None
        entries = np.arange(len(some))
        column, lane = access.agents[some] >> 6, access.agents[some] & 63
        late[entries, column] &= (reads[entries, column] & 63) != lane
        if not late.any():
            return None
        at, reader_column = map(int, np.unravel_index(np.argmax(late), late.shape))
        agent = reader_column * 64 + int(reads[at, reader_column] & 63)
        return int(some[at]), how, agent, int(self.read_line[access.units[some[at]]])

    def _note_reads(self) -> None:
        for access in self.log:
            self._note_read(access)
        self.log.clear()

    def _note_read(self, access: Access) -> None:
        units, column, lane = access.units, access.agents >> 6, access.agents & 63
        for kept, mine, several in (
            (self.readers, access.cluster, SEVERAL), (self.reader, access.agents, SEVERAL),
        ):  # fmt: skip
            before = kept[units]
            kept[units] = np.where((before == NOBODY) | (before == mine), mine, several)
        beside = self.reader[units] != access.agents  # another thread, then or now
        self.reader[units[beside]] = SEVERAL
        epochs, place = access.epochs, units * self.columns + column
        reads = self.reads.reshape(-1)
        before = reads[place]
        others = (before >> 6 == epochs) & (before & 63 != lane)
        reads[place] = mine = epochs * 64 + np.where(others, MANY, lane)
        beside = reads[place] != mine  # lanes of one warp that read the same
        reads[place[beside]] = epochs[beside] * 64 + MANY
        self.read_line[units] = access.line

    def _note_write(self, access: Access, epoch: int | None, agent: int | None) -> None:
        units = access.units
        self.agent[units] = access.agents if agent is None else agent
        self.epoch[units] = access.epochs if epoch is None else epoch
        self.cluster[units], self.line[units] = access.cluster, access.line
        self.atomic[units], self.unsettled = False, True
        read = units[self.reader[units] != NOBODY]
        self.reads[read] = 0
        self.readers[units] = self.reader[units] = NOBODY
