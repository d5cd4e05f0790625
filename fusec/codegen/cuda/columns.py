"""Which columns of a matrix each cluster multiplies, where clusters make partial sums of its rows.

A row has blocks of 32 elements, dealt to the lanes of a warp in `rounds` (see `matvec`). The
columns of `branch` neighbouring lanes are one part, and one cluster makes the partial sums over
them. Each of its thread blocks makes `each` elements of the vector and an equal share of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusec.errors import FusecError
from fusec.ir.graph import Node
from fusec.ir.op_parts import parts_of

BLOCK = 32  # elements in fixed point with one scale
LANES = 32


@dataclass(frozen=True)
class Columns:
    """Those of one `matvec_parts`."""

    columns: int
    branch: int
    each: int

    @classmethod
    def of(cls, node: Node, each: int) -> Columns:
        """The columns of a node. Raises FusecError if lanes or blocks are not those of a warp."""
        dealt = int(node["block"]), int(node["lanes"])
        if dealt != (BLOCK, LANES):
            raise FusecError(
                f"{node.name}: expected blocks of {BLOCK} for {LANES} lanes, found {dealt[0]} for "
                f"{dealt[1]}"
            )
        return cls(node.inputs[1].shape[1], int(node["branch"]), each)

    @property
    def rounds(self) -> int:
        """Blocks of elements of a lane, at most."""
        return -(-self.columns // (BLOCK * LANES))

    @property
    def own(self) -> int:
        """Blocks of elements of a part, at most."""
        return self.rounds * self.branch

    @property
    def ranks(self) -> int:
        """Thread blocks of a cluster."""
        return -(-self.own * BLOCK // self.each)

    @property
    def parts(self) -> int:
        """Clusters."""
        return parts_of(self.columns, BLOCK, LANES, self.branch)
