"""Element-wise work on a tile's sums, which lie in shared memory: a thread's elements in turn.

Neighbouring threads have neighbouring elements of one row of the step. Where a thread has but one,
it finds it, and what it needs besides activations, before the launch in front has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from fusec.codegen.cuda.elements import Elements, HasElements, Indices
from fusec.codegen.cuda.gemm_pairs import Pairs
from fusec.codegen.cuda.gemm_products import OUT
from fusec.codegen.cuda.gemm_slabs import each, first_unit, groups, reach
from fusec.codegen.cuda.scope import Scope, identifier, words
from fusec.codegen.cuda.shape import units
from fusec.codegen.cuda.sources import Memory
from fusec.ir.choice import Tiling
from fusec.ir.graph import Value
from fusec.ir.op_matvec import inverse_of
from fusec.ir.ops import position_of
from fusec.ir.region import Segment


@dataclass(frozen=True)
class Places:
    """What lies where: `near` in a tile of operands behind `stage`, and `of_row` in shared memory.

    `of_row` are scalars of the step's rows, `far` what has a row in memory for each of them.
    """

    near: Mapping[str, int]
    of_row: Mapping[str, str]
    far: Sequence[Value]


class TileElements:
    """Of one segment, whose first thread block is `first`. `early`: see the module."""

    def __init__(
        self,
        scope: Scope,
        tiling: Tiling,
        segment: Segment,
        first: int,
        places: Places,
        early: bool,
        pairs: Pairs | None = None,
    ) -> None:
        self.scope, self.w, self.tiling, self.pairs = scope, scope.w, tiling, pairs
        self.segment, self.first, self.places, self.early = segment, first, places, early
        self.share, self.limit = each(segment, tiling), reach(segment)
        self.indices = Indices(segment, "unit", units(segment))
        self.elements = Elements(scope, segment, self.indices, "live", self._source)
        self.own = {v.name for n in segment.nodes for v in (*n.inputs, *n.outputs)}

    @staticmethod
    def has_one(segment: Segment, tiling: Tiling) -> bool:
        """Whether a thread has one element at most."""
        return each(segment, tiling) * tiling.width <= tiling.threads

    def begin(self) -> None:
        """What needs none of the sums, if it is early."""
        if self.early:
            self._find("thread")
            self._positions()
            self.indices.emit(self.w)
            self.elements.fetch_weights()

    def finish(self) -> None:
        """All of the rest."""
        w, threads = self.w, self.tiling.threads
        steps = -(-self.share * self.tiling.width // threads)
        with nullcontext() if self.early else w.block(f"for step in range({steps}):"):
            if not self.early:
                self._find(f"uint32(uint32(step * {threads}) + thread)")
            for value in self.places.far:
                if value.name in self.own:
                    name = self.scope.pointers[value.name]
                    w.line(f"{name} = at(all_{name}, uint32(row * uint32({words(value)})))")
            if not self.early:
                self._positions()
                self.indices.emit(w)
            self.elements.fetch()
            self.elements.compute(self._sums())

    def _find(self, number: str) -> None:
        """The element of that number in the tile: `own` of row `near`, `unit` of row `row`."""
        w, share = self.w, self.share
        count, limit = share * self.tiling.width, self.limit
        w.line(f"cell = {number}")
        inside = "" if limit % share == 0 else f" & (unit < uint32({limit}))"
        if count % self.tiling.threads:
            w.line(f"has_one = cell < uint32({count})")
            w.line(f"cell = min_u32(cell, uint32({count - 1}))")
            inside += " & has_one"
        w.line(f"own = uint32(cell & uint32({share - 1}))")
        w.line(f"near = uint32(cell >> uint32({share.bit_length() - 1}))")
        w.line("row = uint32(near + first_row)")
        w.line(f"unit = uint32({first_unit(self.first, share)} + own)")
        w.line(f"live = (row < there_are){inside}")
        if self.pairs is not None:
            self.pairs.find()
        else:
            w.line("row = min_u32(row, uint32(there_are - 1))")

    def _positions(self) -> None:
        """Of the row: in shared memory, if the loads have been waited for."""
        for node in self.segment.nodes:
            pos = position_of(node)
            if pos is not None and pos.name not in self.elements.positions:
                now = self.elements.positions[pos.name] = f"now_{pos.name[1:]}"
                place = f"uint32({self.places.of_row[pos.name]} + near * 4)"
                found = f"load_shared_u32({place})"
                if self.early:
                    found = f"load_u32(at({self.scope.pointers[pos.name]}, row))"
                self.w.line(f"{now} = {found}")

    def _source(self, value: Value) -> HasElements:
        if value.name in self.places.near:
            return _Near(self.places.near[value.name], self.share)
        return Memory(self.scope.pointers[value.name], value.shape[-1])

    def _sums(self) -> dict[tuple[str, str], str]:
        """The sums of a thread's unit, each times its row's factor if it has one."""
        sums, row = {}, self.tiling.rows + OUT
        for k, (anchor, n) in enumerate(groups(self.segment)):
            name = f"sum_{identifier(anchor.inputs[1])}_{n}"
            place = f"uint32(stage + (near * {row} + own) * 4 + {4 * k * self.share})"
            factor = ""
            if (inverse := inverse_of(anchor)) is not None:
                of_row = f"uint32({self.places.of_row[inverse.name]} + near * 4)"
                factor = f" * load_shared_f32({of_row})"
            self.w.line(f"{name} = load_shared_f32({place}){factor}")
            sums[anchor.name, self.indices.names[n]] = name
        return sums


@dataclass(frozen=True)
class _Near:
    """Elements of a tile in shared memory, `share` of them a row of the step."""

    start: int
    share: int

    def element(self, _i: str) -> str:
        """That of the thread's unit: operands that are read element by element share its index."""
        return f"load_shared_f32(uint32(stage + {self.start} + (near * {self.share} + own) * 4))"
