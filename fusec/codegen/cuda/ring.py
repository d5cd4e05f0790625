"""A warp's ring buffer in shared memory: records are copied into it while earlier ones are used."""

from __future__ import annotations

from fusec.codegen.cuda.instructions import MOST_COPIES
from fusec.codegen.cuda.shape import WARP
from fusec.writer import Writer

LINE = 128  # bytes of memory, and of all banks
IN_FLIGHT = 1  # copies of a warp in front of the wait


class Ring:
    """Emits the copies of `total` records of up to `record` bytes into as many slots as `room` has.

    The variable `slot` has the address of the one whose turn it is. A copy whose source and target
    lie differently in their lines of 128 bytes takes twice as long, so slots are whole lines, and
    a warp's first one lies in its line as the warp's first record does.
    """

    def __init__(self, w: Writer, record: int, total: int, room: int) -> None:
        self.w, self.slot, self.total = w, -(-record // LINE) * LINE, total
        self.shift = record % LINE
        self.depth = min(total, max(2, min((room - self.shift) // self.slot, MOST_COPIES)))

    @property
    def nbytes(self) -> int:
        """Shared memory of a warp's ring."""
        return self._end + self.shift

    @property
    def _end(self) -> int:
        return self.depth * self.slot

    @property
    def refills(self) -> bool:
        """Whether slots are used again."""
        return self.depth < self.total

    def open(self, where: str) -> None:
        """The ring is at `where`."""
        self.w.line(f"slot = uint32({where} + zero())", "so that it stays in a register")
        self.w.line("left = uint32(0)", "bytes in front of the slot")

    def copy(self, ahead: int, source: str, nbytes: int, live: str = "") -> None:
        """Let a record be copied into the slot `ahead` of this one, where it is `live`."""
        w = self.w
        w.line(f"into = uint32(slot + {ahead * self.slot} + lane * 16)")
        w.line(f"source = at({source}, uint32(lane * 16))")
        whole, rest = divmod(nbytes // 16, WARP)
        for k in range(whole + bool(rest)):
            last = f"(lane < uint32({rest}))" if k == whole else ""
            given = f"uint32(into + {512 * k}), at(source, uint32({512 * k}))"
            if condition := " & ".join(filter(None, (live, last))):
                w.line(f"copy_async_16_if({given}, {condition})")
            else:
                w.line(f"copy_async_16({given})")
        w.line("copy_async_commit()")

    def pace(self, copied: int) -> None:
        """Wait for the copies in front of the last few, if that many were asked for.

        With more of them on their way, all that an SM reads or writes waits in the queues of
        memory until they are through: the vector, and the end of the launch in front.
        """
        if copied >= IN_FLIGHT:
            self.w.line(f"copy_async_wait_{IN_FLIGHT - 1}()")

    def arrive(self) -> None:
        """The record in the slot is there, for all lanes."""
        self._wait(self.depth - 1)

    def arrive_all(self) -> None:
        """All records are there, for all lanes."""
        self._wait(0)

    def _wait(self, later: int) -> None:
        self.w.line(f"copy_async_wait_{later}()")
        self.w.line("warp_barrier()")

    def turn(self) -> None:
        """On to the next slot."""
        w, end = self.w, self._end
        if self.depth == 1:
            return
        w.line(f"left = uint32(left + {self.slot})")
        w.line(f"around = left == uint32({end})")
        w.line(f"slot = uint32(slot + {self.slot} - select_u32(around, uint32({end}), uint32(0)))")
        w.line("left = select_u32(around, uint32(0), left)")
