"""Where a tile's products find the digits of the step's rows (see `fusec.ir.op_fixed`).

In a step of many rows they are made once, in memory, and a block copies those of a slab beside its
weights. In a step of few rows a block has all of its rows' digits, which it made itself
(`gemm_vectors`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import WARP
from fusec.codegen.cuda.stages import Staged
from fusec.ir.choice import Tiling
from fusec.ir.graph import Value
from fusec.ir.op_fixed import DIGIT_BYTES, FACT_BYTES, GROUP, OWN_RECORD, RECORD

COPY = 16  # bytes


class Tile(Protocol):
    """What is to be known of a tile's slabs: `fusec.codegen.cuda.gemm_slabs.Slabs`."""

    scope: Scope
    w: Staged
    tiling: Tiling
    x: Value
    blocks: int
    per: int
    turns: int
    at_once: int
    own_leaves: int
    own: int
    slab: int
    digits: int

    @property
    def is_ragged(self) -> bool:
        """Whether some slabs have fewer blocks."""

    def find_leaf(self, slab: str) -> None:
        """Emit a slab's first leaf, and where in it the slab begins."""

    def column(self, part: str) -> str:
        """Expression of the block of columns that is a part of the slab."""

    def block_of(self, leaf: str, index: str) -> str:
        """Expression of the number of a leaf's `index`-th block."""

    def columns_behind(self, leaf: int, index: int) -> int:
        """How far a slab's `index`-th block of its `leaf`-th leaf lies behind its first block."""


class Records(ABC):
    """Emits addresses of records; `slabs`: the tile whose products read them."""

    def __init__(self, slabs: Tile) -> None:
        self.slabs, self.w = slabs, slabs.w

    @property
    @abstractmethod
    def of_stage(self) -> int:
        """Bytes of a slab's place in shared memory."""

    @property
    @abstractmethod
    def of_eight(self) -> int:
        """Bytes from the records of eight rows of the step to those of the next eight."""

    @abstractmethod
    def of_lane(self) -> None:
        """Where this lane's words and facts are of the first record that its warp reads."""

    @abstractmethod
    def of_slab(self) -> None:
        """Where a slab's records are, at its begin."""

    def bring(self, slab: str, stage: str) -> None:  # noqa: B027  few have to
        """A slab's records on their way to its place."""

    @abstractmethod
    def behind(self, what: str, part: int, more: int) -> str:
        """The address `more` bytes behind own `digits` or `units` of the slab's block `part`."""

    def _places(self, start: str) -> None:
        facts = GROUP * DIGIT_BYTES
        self.w.line(f"own_digits = uint32({start} + lane * 8)")
        self.w.line(f"own_units = uint32({start} + {facts} + member * {2 * FACT_BYTES})")


class OfSlab(Records):
    """Copied from memory, slab by slab."""

    @property
    def of_stage(self) -> int:
        """See `Records`."""
        return self.slabs.tiling.width // GROUP * self.of_eight

    @property
    def of_eight(self) -> int:
        """See `Records`."""
        return self.slabs.slab * RECORD

    def of_lane(self) -> None:
        """See `Records`: within a slab's place."""
        self._of_slab()
        self.w.line("first_eight = uint32(first_row >> uint32(3))")
        self.w.line("last_eight = uint32(uint32(there_are - 1) >> uint32(3))")

    def _of_slab(self) -> None:
        s = self.slabs
        depth = f" + own_depth * {s.own * RECORD}" if s.tiling.deep > 1 else ""
        self._places(f"{s.digits} + (warp_width >> uint32(3)) * {self.of_eight}{depth}")

    def _sources(self, column: str) -> tuple[str, str]:
        """Emit where the lane's pieces of record `eight` are in memory, 32 pieces apart."""
        s = self.slabs
        self.w.line("eights = min_u32(uint32(first_eight + eight), last_eight)")
        words = f"eights * {s.blocks * RECORD // 4} + {column} * {RECORD // 4} + lane * {COPY // 4}"
        self.w.line(f"source = at({s.scope.pointers[s.x.name]}, uint32({words}))")
        return "source", f"at(source, uint32({WARP * COPY // 4}))"

    def of_slab(self) -> None:
        """See `Records`: where the slab is."""

    def behind(self, what: str, part: int, more: int) -> str:
        """See `Records`."""
        return f"uint32(here + own_{what} + {part * RECORD + more})"

    def bring(self, slab: str, stage: str) -> None:
        """See `Records`; each record is copied by a warp.

        Blocks behind the last are zeros: so is their power of two, and what they add to the sums.
        """
        w, s, tiling = self.w, self.slabs, self.slabs.tiling
        warps, pieces = tiling.threads // WARP, RECORD // COPY
        records = tiling.width // GROUP * s.slab
        s.find_leaf(slab)
        for first in range(0, records, warps):
            w.line(f"record = uint32(warp + {first})" if first else "record = warp")
            if first + warps > records:
                w.line(f"record = min_u32(record, uint32({records - 1}))", "some copy the same")
            w.line(f"eight = uint32(record // uint32({s.slab}))")
            w.line(f"part = uint32(record - eight * {s.slab})")
            w.line(f"its = {s.column('part')}")
            last = f"min_u32(its, uint32({s.blocks - 1}))" if s.is_ragged else "its"
            sources = self._sources(last)
            w.line(f"target = uint32({stage} + {s.digits} + record * {RECORD} + lane * {COPY})")
            there = f"its < uint32({s.blocks})"
            for k, start in zip(range(0, pieces, WARP), sources, strict=True):
                to = f"uint32(target + {k * COPY})" if k else "target"
                mine = f"lane < uint32({pieces - k})"
                if k + WARP <= pieces and s.is_ragged:
                    w.line(f"copy_async_16_or_zeros({to}, {start}, {there})")
                elif k + WARP <= pieces:
                    w.line(f"copy_async_16({to}, {start})")
                elif s.is_ragged:
                    with w.block(f"if some({mine}):"):
                        w.line(f"copy_async_16_or_zeros({to}, {start}, {there})")
                else:
                    w.line(f"copy_async_16_if({to}, {start}, {mine})")
        w.line("copy_async_commit()")


class OfBlock(Records):
    """All of them, made by the thread block; `start` and `count`: where, and how many of a row."""

    def __init__(self, slabs: Tile, start: int = 0, count: int = 0) -> None:
        super().__init__(slabs)
        self.start, self.count = start, count

    @property
    def of_stage(self) -> int:
        """See `Records`."""
        return 0

    @property
    def of_eight(self) -> int:
        """See `Records`."""
        return self.count * OWN_RECORD

    def of_lane(self) -> None:
        """See `Records`: in front of all slabs."""
        group = f"(warp_width >> uint32(3)) * {self.of_eight}"
        self._places(f"stage + {self.start} + {group}")

    def of_slab(self) -> None:
        """See `Records`: the record of its first block."""
        w, s = self.w, self.slabs
        depth = f" + own_depth * {s.own_leaves}" if s.tiling.deep > 1 else ""
        leaf = "now" if s.turns > 1 else f"uint32(slab) * {s.at_once}"
        w.line(f"leaf = uint32({leaf}{depth})")
        w.line(f"index = uint32(turn * {s.per})" if s.turns > 1 else "index = uint32(0)")
        w.line(f"records = uint32({s.block_of('leaf', 'index')} * {OWN_RECORD})")

    def behind(self, what: str, part: int, more: int) -> str:
        """See `Records`."""
        leaf, index = divmod(part, self.slabs.per)
        columns = self.slabs.columns_behind(leaf, index)
        return f"uint32(records + own_{what} + {columns * OWN_RECORD + more})"
