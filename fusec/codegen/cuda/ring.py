"""A warp's ring of records in shared memory, which are copied while others are used."""

from __future__ import annotations

from fusec.codegen.cuda.instructions import MOST_COPIES
from fusec.codegen.cuda.shape import WARP
from fusec.writer import Writer


class Ring:
    """Emits the copies of `total` records of up to `slot` bytes into as many slots as `room` has.

    The variable `slot` has the address of the one whose turn it is.
    """

    def __init__(self, w: Writer, slot: int, total: int, room: int) -> None:
        self.w, self.slot, self.total = w, slot, total
        self.depth = min(total, max(2, min(room // slot, MOST_COPIES)))

    @property
    def nbytes(self) -> int:
        """Shared memory of a warp's ring."""
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

    def arrive(self) -> None:
        """The record in the slot is there, for all lanes."""
        self.w.line(f"copy_async_wait_{self.depth - 1}()")
        self.w.line("warp_barrier()")

    def skip(self) -> None:
        """There is nothing to copy into the slot, which counts as a copy."""
        self.w.line("copy_async_commit()")

    def turn(self) -> None:
        """On to the next slot."""
        w, end = self.w, self.nbytes
        if self.depth == 1:
            return
        w.line(f"left = uint32(left + {self.slot})")
        w.line(f"around = left == uint32({end})")
        w.line(f"slot = uint32(slot + {self.slot} - select_u32(around, uint32({end}), uint32(0)))")
        w.line("left = select_u32(around, uint32(0), left)")
