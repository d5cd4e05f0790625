"""Rows of matrices in shared memory, as the tensor cores take them: their layout, and what fits.

A panel has some rows by some blocks of 32 columns, in fragments of 16 rows by one block (see
`lib.gemm`). Its columns are leaves of the tree in which a row's sum is made (see `matvec`), each
with a block or a few that come in turn. The work is dealt to a thread block's warps in units: a
fragment's rows by a branch of the tree. What units have summed up lies in shared memory, for each
branch eight rows of the step by all rows of the panel, until somebody adds the branches up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fusec.codegen.cuda.block_products import facts_of, halves_of
from fusec.codegen.formats import QuantFormat
from fusec.ir.op_fixed import BLOCK, FACT_BYTES, GROUP, OWN_RECORD, RECORD

FRAGMENT = 16  # rows
SKEW = 16  # bytes between the levels of two blocks: neighbours begin in different banks
OUT = 4  # floats between rows of sums
BLOCK_COST, BRANCH_COST = 16, 3  # of multiplying a block, of storing a branch's sums and adding it
PIECE = 16  # bytes
PIECES = RECORD // GROUP // PIECE  # of a record, of one row of the step


@dataclass(frozen=True)
class Panel:
    """`rows` are whole fragments; a leaf has `turns` blocks; `warps` share the work."""

    fmt: QuantFormat
    rows: int
    leaves: int
    turns: int
    warps: int

    @property
    def blocks(self) -> int:
        """Of 32 columns. Block b + k * leaves is the k-th of leaf b."""
        return self.leaves * self.turns

    @property
    def halves(self) -> int:
        """Groups of a block with a scale of their own."""
        return halves_of(self.fmt)

    @property
    def facts(self) -> int:
        """Floats that are known of a row's block beside its levels: scales, then minima."""
        return facts_of(self.fmt)

    @property
    def pairs(self) -> int:
        """Blocks of rows g and g + 8 of a fragment: what a thread decodes at once."""
        return self.rows // 2 * self.blocks

    # --- bytes of shared memory ------------------------------------------------------------------

    @property
    def levels_pitch(self) -> int:
        """From the levels of one block of columns to those of the next."""
        return self.rows * BLOCK + SKEW

    @property
    def facts_pitch(self) -> int:
        """The same of facts."""
        return (self.rows + 1) * 4 * self.facts

    @property
    def sums_row(self) -> int:
        """From the sums of one row of the step to those of the next."""
        return 4 * (self.rows + OUT)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of the levels, the facts and the sums."""
        sums = self.branches * GROUP * self.sums_row
        return self.blocks * self.levels_pitch, self.blocks * self.facts_pitch, sums

    # --- units -----------------------------------------------------------------------------------

    @property
    def tiles(self) -> int:
        """Fragments, one above the other."""
        return self.rows // FRAGMENT

    @cached_property
    def branch(self) -> int:
        """Leaves of a unit: few let warps share the work, many leave less to be added up."""
        sizes = [1 << n for n in range((self.leaves - 1).bit_length() + 1)]
        return min(sizes, key=self._cost)

    @property
    def branches(self) -> int:
        """Of a tile."""
        return -(-self.leaves // self.branch)

    @property
    def units(self) -> int:
        """Tile by tile of the first branch, then of the next one."""
        return self.tiles * self.branches

    def leaves_of(self, unit: int) -> int:
        """How many a unit has: the last branch may have fewer."""
        return min(self.branch, self.leaves - unit // self.tiles * self.branch)

    def _cost(self, size: int) -> int:
        """Of branches of that many leaves: of the warp that has most blocks, and of the rest."""
        branches = -(-self.leaves // size)
        of_branches = [min(size, self.leaves - b * size) for b in range(branches)]
        units = [count for count in of_branches for _ in range(self.tiles)]
        longest = max(sum(units[warp :: self.warps]) for warp in range(self.warps)) * self.turns
        return BLOCK_COST * longest + BRANCH_COST * branches


def records_bytes(blocks: int) -> int:
    """Shared memory of the digits of eight rows of the step."""
    return blocks * OWN_RECORD


def fact_place(row: str) -> str:
    """Where in a record the facts of a row of the step are."""
    return f"uint32({RECORD - GROUP * FACT_BYTES} + {row} * {FACT_BYTES})"
