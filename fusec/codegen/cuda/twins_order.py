"""What orders a kernel's accesses to memory, checked while the NumPy twins run it in lock step.

Every thread has a vector clock (Mattern 1989): how much of the work of every warp of its cluster
it comes after. A barrier joins the clocks of those it holds up. An access is a race unless all
accesses of other threads that conflict with it, of which at least one writes, are in the past of
its thread; which ones those are, a `History` of the memory knows (`twins_history`).

What orders what, after the PTX ISA (memory consistency model, and the instructions' own pages):

- `barrier`: all threads of the block; all of them have to come.
- `warp_barrier`: the lanes of a warp. Shuffles, votes and `redux` order nothing: "these intrinsics
  do not imply a memory barrier" (CUDA programming guide, warp shuffle functions).
- `copy_async_16`: from its issue on the target is being written, for its own thread too, until that
  thread waits for the group. For other threads it is a write of that moment.
- `cluster_arrive` and `cluster_wait`: all threads of the cluster. `cluster_arrive_relaxed` shows
  nobody what was written; it says that the block has begun, and that its mailbox is open, for which
  `mailbox_open` has a fence of its own.
- `send_*`: the data belongs to the mailbox until a thread of the receiving block has waited for it.
  Only the data: `st.async` is a weak operation of its own, so it is not taken to show what else its
  thread wrote.
- Two writes that leave the same bytes need no order: `sample` has such, and whoever wins is right.
- `griddep_wait`: all that launches in front have done. In front of it a kernel stores nothing.
- Blocks of different clusters are ordered by nothing while a launch runs.

Also found: a barrier or an exchange between lanes that not all lanes of a warp come to, a block
that leaves while others of its cluster may still reach its memory, copies that nobody waits for.

Not seen: an order by global atomics (`red_release_add_u32` and its like are taken as they come);
accesses that other inputs would make; halves of a word of shared memory, apart; what a compiler
does to the source; named barriers, which no kernel has and no twin runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fusec.codegen.cuda.twins_history import FRONT, IN_FLIGHT, MANY, Access, History, RaceError
from fusec.codegen.cuda.twins_lines import Lines

READ_AGAIN = ("attention_spans", "attention_project")
"""Kernels whose early reads of the caches may meet the row that a launch in front writes: at
position 0, where there is no older one. They read it again, so what they get first is poison.
"""
KNOWN = 2  # in a clock, of what happens once: greater than the epoch, 1, of what is ordered by it


@dataclass(frozen=True)
class Layout:
    """Columns of a clock: the cluster's warps, then what happens once in every block."""

    ranks: int
    warps: int  # of a block
    boxes: int  # mailboxes of a block

    def mail(self, rank: int = 0, box: int = 0) -> int:
        """Of a block: what a mailbox of it was sent has arrived."""
        return self.ranks * self.warps + box * self.ranks + rank

    def opened(self, rank: int = 0, box: int = 0) -> int:
        """Of a block: a mailbox of it is open."""
        return self.mail(rank, self.boxes + box)

    @property
    def begun(self) -> int:
        """Of the first block: it runs."""
        return self.opened(box=self.boxes)

    @property
    def front(self) -> int:
        """The launches in front are complete."""
        return self.begun + self.ranks

    @property
    def columns(self) -> int:
        """Of a clock."""
        return self.front + 1


class Trace:
    """Histories of arrays in global memory, over the launches of a plan; by address."""

    def __init__(self) -> None:
        self.histories: dict[int, History] = {}

    def begin(self, early: bool, layout: Layout) -> None:
        """The next launch begins; if not `early`, when all in front of it have ended."""
        if not early:
            self.histories.clear()
        for history in self.histories.values():
            history.hand_over(layout.front, layout.columns)

    def history(self, memory: npt.NDArray[np.uint8], unit: int, columns: int, name: str) -> History:
        """Of an array whose elements have `unit` bytes, which the kernel calls `name`."""
        key = memory.ctypes.data
        if key not in self.histories:
            self.histories[key] = History(memory.size // unit, unit, columns)
        self.histories[key].name = name
        return self.histories[key]

    def fork(self) -> Trace:
        """Another one, of launches that go on otherwise from here."""
        trace = Trace()
        trace.histories = {key: history.fork() for key, history in self.histories.items()}
        return trace

    def settle(self) -> None:
        """See `History.settle`."""
        for history in self.histories.values():
            history.settle()


class Order:
    """The clocks of a block's threads, and the history of its shared memory.

    `others`: those of all blocks of the cluster, by rank.
    """

    def __init__(self, kernel: str, source: str, threads: int, rank: int, ranks: int) -> None:
        self.kernel, self.lines = kernel, Lines(source)
        self.threads, self.rank = threads, rank
        self.layout = Layout(ranks, -(-threads // 32), max(1, source.count("mailbox_open(")))
        self.rows = np.arange(threads)
        self.warp = rank * self.layout.warps + self.rows // 32  # columns
        self.agents = (self.warp * 64 + self.rows % 32).astype(np.int32)
        self.others: list[Order] = [self]

    def begin(self, first: int, early: bool, trace: Trace, alone: bool) -> None:
        """Become a block of the cluster that starts with block `first`; `alone`: of no other."""
        layout = self.layout
        self.cluster, self.trace, self.alone = first, trace, alone
        self.clock = np.zeros((self.threads, layout.columns), np.int32)
        self.clock[self.rows, self.warp] = 1
        self.clock[:, layout.begun + self.rank] = KNOWN
        self.clock[:, layout.front] = 0 if early else KNOWN
        self.knows_front, self.epochs = not early, np.ones(self.threads, np.int32)
        self.shared = History(0, 4, layout.columns)
        self.arrivals: list[npt.NDArray[np.int32]] = []
        self.waited, self.left = 0, False
        self.boxes: dict[int, int] = {}  # address -> number

    def history(self, memory: npt.NDArray[np.uint8], unit: int, name: str) -> History:
        """Of an array that is passed under that name."""
        return self.trace.history(memory, unit, self.layout.columns, name)

    # --- what orders -----------------------------------------------------------------------------

    def _release(self, rows: Any) -> None:
        """What a warp does from here on is another epoch of it."""
        self.clock[rows, self.warp[rows]] += 1
        self.epochs = self.clock[self.rows, self.warp]

    def barrier(self, active: npt.NDArray[np.bool_]) -> None:
        """All threads of the block."""
        if not active.all():
            self.fail(f"a barrier for {self.threads} threads, to which {active.sum()} come")
        self._release(self.rows)
        self.clock[:] = self.clock.max(axis=0)
        self.knows_front = bool(self.clock[0, self.layout.front])
        if self.layout.ranks == 1:
            self.shared.settle()
            if self.alone and self.knows_front:
                self.trace.settle()

    def warp_barrier(self, active: npt.NDArray[np.bool_]) -> None:
        """The lanes of each warp that comes."""
        rows = np.flatnonzero(active)
        self._release(rows)
        clocks = self.clock[rows].reshape(-1, 32, self.layout.columns)
        self.clock[rows] = np.repeat(clocks.max(axis=1), 32, axis=0)

    def arrive(self, active: npt.NDArray[np.bool_], relaxed: bool) -> None:
        """At the barrier of the cluster."""
        if not active.all():
            self.fail("a barrier of the cluster, to which not all threads of a block come")
        if len(self.arrivals) > self.waited:
            self.fail("arrives at the cluster's barrier again before it has waited")
        if not relaxed:
            self._release(self.rows)
        clock = self.clock.max(axis=0)
        if relaxed:
            once = slice(self.layout.opened(), self.layout.front)
            shown = np.zeros_like(clock)
            shown[once] = clock[once]
            clock = shown
        self.arrivals.append(clock)

    def cluster_wait(self, active: npt.NDArray[np.bool_]) -> None:
        """All blocks of the cluster have arrived, and wait: their Python threads have met."""
        rows = np.flatnonzero(active)
        for other in self.others:
            if len(other.arrivals) <= self.waited:
                self.fail("waits for the cluster, where nobody has arrived: forever")
            self.clock[rows] = np.maximum(self.clock[rows], other.arrivals[self.waited])
        self.waited += 1

    def open_mailbox(self, live: npt.NDArray[np.bool_], address: int) -> None:
        """By the threads that are live."""
        if address in self.boxes:
            self.fail("the block opens a mailbox a second time")
        box = self.boxes[address] = len(self.boxes)
        self.clock[live, self.layout.opened(self.rank, box)] = KNOWN

    def mailbox_wait(self, active: npt.NDArray[np.bool_], address: int) -> None:
        """What was sent is there for the threads that have waited."""
        box = self._box(address)
        if not self.clock[active, self.layout.opened(self.rank, box)].all():
            self.fail("a wait for a mailbox that nothing orders behind its opening")
        self.clock[active, self.layout.mail(self.rank, box)] = KNOWN

    def _box(self, address: int) -> int:
        """Number of a mailbox, which is the same in all blocks of the cluster."""
        if address not in self.boxes:
            self.fail("a mailbox that the block has not opened")
        return self.boxes[address]

    def griddep_wait(self, active: npt.NDArray[np.bool_]) -> None:
        """The launches in front are complete."""
        self.clock[active, self.layout.front] = KNOWN
        self.knows_front = bool(self.clock[:, self.layout.front].all())

    def end(self) -> None:
        """The block leaves, and its shared memory with it."""
        if self.layout.ranks == 1:
            return
        with self.shared.lock:
            self.left = True
            known = self.clock.max(axis=0)
            if found := self.shared.outlasts(known, self.rank, self.layout.warps):
                self.fail(f"leaves while its memory may still be {found[0]}", found[1])

    # --- accesses --------------------------------------------------------------------------------

    def access(
        self, live: npt.NDArray[np.bool_], units: npt.NDArray[np.int64], stored: Any = None
    ) -> Access:
        """One instruction's accesses by the threads that are `live`; units [threads, n].

        `stored`: of a store, bytes that it finds and leaves, [live threads, bytes].
        """
        rows = self.rows
        if not live.all():
            rows = np.flatnonzero(live)
            units = units[rows]
        return Access(self, rows, units, self.lines.now(), stored)

    def of_shared(self, live: Any, offset: Any, nbytes: int, stored: Any = None) -> Access:
        """The same, from addresses in shared memory."""
        units = offset[:, None] // 4 + np.arange(max(1, nbytes // 4))
        return self.access(live, units, stored)

    def read(self, owner: Order, access: Access) -> None:
        """From the shared memory of a block of the cluster."""
        with owner.shared.lock:
            self._reach(owner, access, "reads")
            self._judge(owner.shared, owner.shared.read(access), access, "reads")

    def write(self, owner: Order, access: Access, flying: bool = False) -> None:
        """To it. `flying`: by a copy that is now on its way."""
        with owner.shared.lock:
            self._reach(owner, access, "writes")
            found = owner.shared.write(access, epoch=IN_FLIGHT if flying else None)
            self._judge(owner.shared, found, access, "writes")

    def add(self, access: Access) -> None:
        """Atomically, to the block's own."""
        with self.shared.lock:
            self._judge(self.shared, self.shared.atomic_add(access), access, "changes")

    def landed(self, rows: npt.NDArray[np.int64], units: npt.NDArray[np.int64]) -> None:
        """Copies to `units`, [copies, 4], are there, for the threads that have waited."""
        with self.shared.lock:
            self.shared.land(Access(self, rows, units, 0))

    def send(self, owner: Order, access: Access, mailbox: int) -> None:
        """Asynchronously, counted in that block's mailbox of that address."""
        layout, box = self.layout, self._box(mailbox)
        with owner.shared.lock:
            self._reach(owner, access, "sends to")
            if not self.clock[access.rows, layout.opened(owner.rank, box)].all():
                self.fail(f"sends to block {owner.block}, whose mailbox may not be open")
            agent = layout.mail(owner.rank, box) * 64
            found = owner.shared.write(access, epoch=1, agent=agent)
            self._judge(owner.shared, found, access, "sends to")

    def global_read(self, history: History, access: Access) -> npt.NDArray[np.int64]:
        """From an array that was passed; the threads that get what may be anything."""
        late = np.zeros(len(access.units), np.bool_)
        if self.kernel.startswith(READ_AGAIN) and not self.knows_front and history.in_front:
            late = history.cluster[access.units] == FRONT
            late &= self.clock[access.rows, self.layout.front] == 0
        with history.lock:
            kept = access.only(~late) if late.any() else access
            self._judge(history, history.read(kept), kept, "reads")
        return access.rows[late]

    def global_add(self, history: History, access: Access) -> None:
        """To an array that was passed, atomically."""
        self._stores_late(access)
        with history.lock:
            self._judge(history, history.atomic_add(access), access, "adds to")

    def global_write(self, history: History, access: Access) -> None:
        """To it."""
        self._stores_late(access)
        with history.lock:
            self._judge(history, history.write(access), access, "writes")

    def _stores_late(self, access: Access) -> None:
        if not self.knows_front and not self.clock[access.rows, self.layout.front].all():
            self.fail("stores in front of the wait for the launches in front")

    def _reach(self, owner: Order, access: Access, what: str) -> None:
        """Another block's memory is there only while that block is."""
        begun = self.layout.begun + owner.rank
        if owner is not self and not self.clock[access.rows, begun].all():
            self.fail(f"{what} the memory of block {owner.block}, which may not have begun")
        if owner.left:
            self.fail(f"{what} the memory of block {owner.block}, which may have left")

    # --- faults ----------------------------------------------------------------------------------

    @property
    def block(self) -> int:
        """Its number in the grid."""
        return self.cluster + self.rank

    def _judge(self, history: History, found: Any, access: Access, what: str) -> None:
        if found is None:
            return
        at, how, agent, line = found
        unit = int(access.units[at])
        place = f"{history.name}[{unit}]" if history.name else self.lines.place(4 * unit)
        who = f"thread {int(access.rows[at])} of block {self.block} {what}"
        whose = f" {self._agent(agent)}" if agent >= 0 else ""
        self.fail(f"{who} {place}, {how}{whose}: nothing orders the two", line)

    def _agent(self, agent: int) -> str:
        layout, column, lane = self.layout, agent >> 6, agent & 63
        if column == layout.front:
            return "a launch in front"
        if column >= layout.mail():
            return "a block of the cluster, by its mailbox"
        rank, warp = divmod(column, layout.warps)
        who = f"lanes of warp {warp}" if lane == MANY else f"thread {warp * 32 + lane}"
        return f"{who} of block {self.cluster + rank}"

    def fail(self, what: str, other: int | None = None) -> NoReturn:
        """Raise the error, with the lines."""
        text = f"{self.kernel}: {what}\n  {self.lines.text(self.lines.now())}"
        if other is not None:
            text += f"\n  {self.lines.text(other)}"
        raise RaceError(text)
