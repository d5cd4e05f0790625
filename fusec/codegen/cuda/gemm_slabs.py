"""A tile's slabs: what a thread block has of matrices and vectors at a time, and how it gets there.

A tile goes through the columns in slabs of a few blocks of 32. Of a slab, a thread block has in
shared memory the levels of its matrix rows, decoded once, with their scales, and the digits of the
step's rows (see `fusec.ir.op_fixed`). There are several such places: while the warps multiply one
slab, a later one's weights are on their way to registers and its digits to a place that is free.

Blocks are taken leaf by leaf of the tree in which a row's sum is made (see `gemm_products`). A slab
has one leaf, several that are a branch of the tree, or a part of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from fusec.codegen import formats
from fusec.codegen.cuda.block_products import facts_of, halves_of, make_facts
from fusec.codegen.cuda.elements import Indices
from fusec.codegen.cuda.gemm_pairs import OfPairs, Pairs
from fusec.codegen.cuda.gemm_records import OfBlock, OfSlab, Records
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import anchors, units
from fusec.codegen.formats import QuantFormat
from fusec.ir.choice import Tiling
from fusec.ir.graph import Node
from fusec.ir.op_fixed import BLOCK
from fusec.ir.op_groups import is_grouped
from fusec.ir.region import Segment
from fusec.writer import Writer

MOST = 1 << 10  # rows of a tile, at most

Members = Sequence[tuple[Segment, int, int]]
"""Segments of a kernel, each with its first thread block and how many it has."""


def groups(segment: Segment) -> list[tuple[Node, int]]:
    """What a tile has for each unit of a segment: a row of each matrix, or both of a pair."""
    return [(a, n) for a in anchors(segment) for n in range(2 if segment.rope else 1)]


def reach(segment: Segment) -> int:
    """Units that tiles go over: of one expert, where rows are sorted by it."""
    anchor = anchors(segment)[0]
    return int(anchor["rows"]) if is_grouped(anchor) else units(segment)


def each(segment: Segment, tiling: Tiling) -> int:
    """Units of a segment in a tile."""
    return tiling.rows // len(groups(segment))


@contextmanager
def branch(w: Writer, n: int, end: int, count: int) -> Iterator[None]:
    """The body of the n-th of `count` branches, of blocks in front of `end`."""
    head = "else:" if n == count - 1 else f"{'el' if n else ''}if block < {end}:"
    with nullcontext() if count == 1 else w.block(head):
        yield


def first_unit(first: int, share: int) -> str:
    """The first unit of a block."""
    return f"(block - {first}) * {share}" if first else f"block * {share}"


class Slabs(ABC):
    """Emits what brings the slabs of one class of segments to shared memory.

    `own`: where the digits are that the block has made itself, and how many records of a row.
    `pairs`: of rows that are sorted by expert.
    """

    leaves: int
    """Of the tree, if all of a row's columns are there: a power of two."""
    share: int
    """Blocks of a leaf, at most."""

    def __init__(
        self,
        scope: Scope,
        tiling: Tiling,
        members: Members,
        own: tuple[int, int] | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        self.scope, self.w, self.members, self.pairs = scope, scope.w, members, pairs
        anchor = anchors(members[0][0])[0]
        self.x, self.weight = anchor.inputs[:2]
        fmt = formats.get(self.weight.dtype)
        assert isinstance(fmt, QuantFormat)
        self.fmt, self.tiling = fmt, tiling
        self.blocks = self.weight.shape[1] // BLOCK
        self._find_order()
        self.per = self.share if self.share <= tiling.slab else self._part_of_leaf(tiling.slab)
        self.turns = -(-self.share // self.per)  # slabs of a leaf
        most = max(1, tiling.slab // self.per) if self.turns == 1 else 1
        self.own_leaves = self.leaves // tiling.deep  # of a warp
        # leaves that a warp takes of a slab, a branch of the tree
        self.at_once = min(1 << most.bit_length() - 1, self.own_leaves)
        self.own = self.at_once * self.per  # blocks that a warp takes of it
        self.slab = self.own * tiling.deep
        self.branches = -(-min(self.blocks, self.own_leaves) // self.at_once)
        self.slabs = self.branches * self.turns
        self.facts = facts_of(fmt)  # floats of a block of weights
        self.scales = self.slab * tiling.rows * BLOCK
        self.digits = self.scales + self.slab * tiling.rows * self.facts * 4
        self.records: Records = OfSlab(self)
        if own is not None:
            self.records = OfBlock(self, *own)
        elif pairs is not None:
            self.records = OfPairs(self, pairs)
        self.stage = self.digits + self.records.of_stage

    # --- what an order says ----------------------------------------------------------------------

    @abstractmethod
    def _find_order(self) -> None:
        """Set `leaves`, `share`, and what else a class declares of an order."""

    @abstractmethod
    def _part_of_leaf(self, most: int) -> int:
        """Blocks of a slab that has a part of a leaf, if it may have so many."""

    @abstractmethod
    def block_of(self, leaf: str, index: str) -> str:
        """Expression of the number of a leaf's `index`-th block; there may be no such block."""

    @property
    def fetch(self) -> str:
        """The function that loads weights."""
        return f"fetch_{self.fmt.name}"

    @abstractmethod
    def columns_behind(self, leaf: int, index: int) -> int:
        """How far a slab's `index`-th block of its `leaf`-th leaf lies behind its first block."""

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def halves(self) -> int:
        """Groups of a block with a scale of their own."""
        return halves_of(self.fmt)

    @property
    def is_ragged(self) -> bool:
        """Whether some slabs have fewer blocks."""
        return self.slabs * self.slab != self.blocks

    @property
    def ahead(self) -> range:
        """Slabs that are on their way before the first is multiplied."""
        return range(min(self.tiling.stages - 1, self.slabs))

    @property
    def items(self) -> range:
        """Pairs of blocks of weights that a thread decodes of a slab, one after the other.

        Those of rows g and g + 8 of a fragment: what a lane multiplies of them lies side by side.
        """
        return range(-(-self.tiling.rows // 2 * self.slab // self.tiling.threads))

    def _stage(self, ahead: int) -> str:
        """Where a slab that is multiplied later goes first."""
        return f"uint32(stage + {ahead * self.stage})" if ahead else "stage"

    # --- weights and digits ----------------------------------------------------------------------

    def begin(self) -> None:
        """A thread's rows of the matrices, and the first weights."""
        w, tiling = self.w, self.tiling
        for k in self.items:
            w.line(f"place = uint32(thread + {k * tiling.threads})" if k else "place = thread")
            w.line(f"pair = uint32(place // uint32({self.slab}))")
            w.line(f"part{k} = uint32(place - pair * {self.slab})")
            w.line(f"slot{k} = uint32(pair + (pair & uint32({MOST - 8})))")
        for n, (segment, first, blocks) in enumerate(self.members):
            with branch(w, n, first + blocks, len(self.members)):
                for k in self.items:
                    for half in (0, 1):
                        self._row_of(segment, first, k, half)
        for k in self.items:
            for ahead in self.ahead:
                self._fetch(k, str(ahead), ahead)

    def _row_of(self, segment: Segment, first: int, k: int, half: int) -> None:
        """Which row of which matrix is in `slot{k}`, or eight slots behind."""
        w, share = self.w, each(segment, self.tiling)
        indices = Indices(segment, "unit", reach(segment))
        slot = f"uint32(slot{k} + {8 * half})" if half else f"slot{k}"
        w.line(f"unit = uint32({first_unit(first, share)} + uint32({slot} & uint32({share - 1})))")
        indices.emit(w)
        found = groups(segment)
        row, matrix = indices.names[found[0][1]], self._pointer(found[0][0])
        for g, (anchor, n) in enumerate(found[1:], 1):
            behind = f"{slot} >= uint32({g * share})"
            if indices.names[n] != row:
                row = f"select_u32({behind}, {indices.names[n]}, {row})"
            if self._pointer(anchor) not in matrix:
                matrix = f"select_pointer({behind}, {self._pointer(anchor)}, {matrix})"
        row = f"uint32({row} + first_of_expert)" if self.pairs is not None else row
        w.line(f"row{k}_{half} = {row}")
        w.line(f"matrix{k}_{half} = {matrix}")
        w.line(f"of_rows = uint32({found[0][0].inputs[1].shape[0]})")

    def _pointer(self, anchor: Node) -> str:
        return self.scope.pointers[anchor.inputs[1].name]

    def _loaded(self, k: int, half: int, ahead: int) -> str:
        """The variable of a thread's weights: another one for every format, as their types are."""
        return f"{self.fmt.name}_{ahead}_{k}_{half}"

    def _fetch(self, k: int, slab: str, ahead: int = 0) -> None:
        """A thread's weights of a slab on their way to registers."""
        w = self.w
        self.find_leaf(slab)
        inside = self.column(f"part{k}")
        if self.is_ragged:
            inside = f"min_u32({inside}, uint32({self.blocks - 1}))"
        w.line(f"column = {inside}")
        for half in (0, 1):
            given = f"matrix{k}_{half}, of_rows, {self.blocks}, row{k}_{half}, column"
            w.line(f"{self._loaded(k, half, ahead)} = {self.fetch}({given})")

    def _decode(self, k: int, stage: str, ahead: int = 0) -> None:
        """These weights' levels and scales in shared memory."""
        w, fmt, tiling = self.w, self.fmt, self.tiling
        pairs = tiling.rows // 2 * self.slab
        mine = f"if some(uint32(thread + {k * tiling.threads}) < uint32({pairs})):"
        with w.block(mine) if (k + 1) * tiling.threads > pairs else nullcontext():
            w.line(f"cell = uint32(part{k} * {tiling.rows} + slot{k})")
            loaded = [self._loaded(k, half, ahead) for half in (0, 1)]
            levels = ", ".join(f"levels_{fmt.name}({each_of})" for each_of in loaded)
            w.line(f"store_blocks({levels}, uint32({stage} + cell * {BLOCK}), slot{k})")
            width = f"x{self.facts}" if self.facts > 1 else ""
            for half in (0, 1):
                values = make_facts(w, fmt, loaded[half])
                more = f" + {8 * half}" if half else ""
                place = f"uint32({stage} + {self.scales} + (cell{more}) * {4 * self.facts})"
                guard = f"{place}, {', '.join(values)}"
                if (k + 1) * tiling.threads > pairs:
                    live = f"uint32(thread + {k * tiling.threads}) < uint32({pairs})"
                    w.line(f"store_shared_f32{width}_if({guard}, {live})")
                else:
                    w.line(f"store_shared_f32{width}({guard})")

    def find_leaf(self, slab: str) -> None:
        """A slab's first leaf, and where in it the slab begins."""
        if self.turns == 1:
            self.w.line(f"first_leaf = uint32({slab} * {self.at_once})")
            return
        self.w.line(f"first_leaf = uint32(uint32({slab}) // uint32({self.turns}))")
        self.w.line(f"begun = uint32(({slab} - first_leaf * {self.turns}) * {self.per})")

    def column(self, part: str) -> str:
        """Expression of the block of columns that is a part of the slab (see `find_leaf`)."""
        w = self.w
        w.line(f"leaf = uint32({part} // uint32({self.per}))")
        w.line(f"index = uint32({part} - leaf * {self.per})")
        if self.turns > 1:
            w.line("index = uint32(index + begun)")
        if self.tiling.deep > 1:
            w.line(f"depth = uint32(leaf // uint32({self.at_once}))", "whose branch it is of")
            w.line(f"leaf = uint32(leaf + depth * {self.own_leaves - self.at_once})")
        w.line("leaf = uint32(leaf + first_leaf)")
        return self.block_of("leaf", "index")
