"""Rows of matrices that a cluster's thread blocks share: each warp sends its own to all of them."""

from __future__ import annotations

from fusec.codegen.cuda.matvec import Matvec
from fusec.codegen.cuda.shape import WARP


class ClusterRows(Matvec):
    """A segment by rows; what they make is counted where it arrives, by an mbarrier (a mailbox)."""

    @property
    def own_row(self) -> str:
        """See `Matvec.own_row`: each of a warp's rows has lanes for all blocks of the cluster."""
        return f"uint32(lane & uint32({self.at_once - 1}))"

    def _send(self, value: str, place: str, mailbox: str, ranks: int) -> None:
        """The lane's `value` to a place in shared memory of all blocks, each by a lane of its own.

        All mailboxes are open.
        """
        w = self.scope.w
        w.line(f"to_slot = {place}")
        for first in range(0, ranks, WARP // self.at_once):
            w.line(f"other = uint32(uint32(lane // uint32({self.at_once})) + uint32({first}))")
            w.line(f"to_rank = min_u32(other, uint32({ranks - 1}))")
            to, counted = (self.scope.exchange.of_rank(x, "to_rank") for x in ("to_slot", mailbox))
            w.line(f"send_f32_if({to}, {value}, {counted}, other < uint32({ranks}))")
