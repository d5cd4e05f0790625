"""Rows of matrices times vectors, and the element-wise work on each row's sum.

The canonical order, whatever the grid: lane l of a warp takes chunks l, l + 32, ... of a row and
adds their products to its running sum (for plain floats: four sums, by place in a quad); then the
lanes' sums are added over distances 1, 2, 4, 8, 16: a balanced tree, in which a head's blocks are a
branch (`projection` makes branches apart). Where a row is a sum of parts (`split_matvec`), each
such branch is one, and parts are added exactly instead (`lib.exact`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.row_chunks import Row, RowChunks
from fusec.codegen.cuda.shape import (
    REGISTERS,
    WARP,
    chunk_registers,
    registers,
    rounds,
    units,
)
from fusec.ir.graph import Node
from fusec.ir.op_matvec import branch_of

MOST_UNROLLED = 4  # chunks of a row that a lane loads before it uses the first
FEW_BLOCKS = 64  # of a launch: an SM has one at most, and registers to spare
ZERO = "float32(0)"


class Matvec(RowChunks):
    """A segment by rows. `whole`: whether the warps' shares come out even.

    `room`: registers that a lane may fill with weights.
    """

    room = REGISTERS

    def __init__(self, alike: Alike, prologue: Prologue) -> None:
        geometry = alike.scope.geometry
        share = geometry.warps * geometry.rows_at_once * geometry.steps
        self.whole = all(units(segment) % share == 0 for segment, _, _ in alike.members)
        super().__init__(alike, prologue)
        self.rounds = max(map(rounds, self.anchors))
        self.early = self.steps == 1 and self._fits
        self.unrolled = self.rounds == 1 or self.early

    @property
    def _fits(self) -> bool:
        """Whether a lane has registers for what it loads of all rows.

        A small matrix of plain floats may take more: it is read by a few blocks, one on an SM.
        """
        held = sum(registers(a) for a in self.anchors) * (2 if self.segment.rope else 1)
        if not self._quantised() and self.scope.geometry.grid <= FEW_BLOCKS:
            return held * self.at_once <= 2 * REGISTERS
        return held * self.at_once <= self.room and self.rounds <= MOST_UNROLLED

    @property
    def own_row(self) -> str:
        """Which of the warp's rows is this lane's unit."""
        return "lane"

    @property
    def rows(self) -> Sequence[Row]:
        """What a warp does at once."""
        if self.segment.rope:
            return [Row(a, i, i[1:]) for a in self.anchors for i in self.indices.names]
        return [Row(a, f"row{g}", str(g)) for g in range(self.at_once) for a in self.anchors]

    def load(self) -> None:
        """The weights of a warp's one step: they fit its registers."""
        self._rows("0")
        for r in range(self.rounds):
            self._chunk(str(r), f"lane + {WARP * r}" if r else "lane")
            for row in self.rows:
                if r < rounds(row.anchor):
                    self._fetch(row, str(r))
        for r in range(self.rounds):
            for row in self.rows:
                if r < rounds(row.anchor):
                    self._decode(row, str(r))
        self._settle()
        if not self.segment.rope:
            self.indices.emit(self.scope.w)
        self.elements.fetch_weights()

    def _settle(self) -> None:
        """Where the wait comes next, decoding is done by then."""
        words = [
            f"all_words({self._levels(row, str(r))})"
            for r in range(self.rounds)
            for row in self.rows
            if r < rounds(row.anchor) and row.anchor in self._quantised()
        ]
        if words and self.scope.overlaps:
            self.scope.w.line(f"settle({' ^ '.join(words)})")

    def _rest(self) -> None:
        w = self.scope.w
        if self.early:
            self._step()
            return
        if self.unrolled:
            self._chunk("0", "lane")
            self._activations("0")
        with w.block(f"for step in range({self.steps}):") if self.steps > 1 else nullcontext():
            self._rows("step" if self.steps > 1 else "0")
            self._step()

    # --- which rows ------------------------------------------------------------------------------

    def _rows(self, step: str) -> None:
        """Numbers of the rows, and the unit whose element-wise work is this lane's."""
        w, first = self.scope.w, self._first_row(step)
        if self.segment.rope:
            w.line(f"unit = {first}")
            self.indices.emit(w)
            return
        w.line(f"first = {first}")
        for g in range(self.at_once):
            row = f"uint32(first + uint32({g}))" if g else "first"
            if not self.whole:
                row = f"min_u32({row}, uint32({self.limit} - 1))"
            w.line(f"row{g} = {row}")
        w.line(f"unit = {f'uint32(first + {self.own_row})' if self.at_once > 1 else 'first'}")

    def _first_row(self, step: str) -> str:
        """The first of this warp's rows."""
        block = f"(block - {self.first})" if self.first != "0" else "block"
        if step != "0":
            block = f"(step * {self.blocks} + {block})"
        group = f"({block} * {self.scope.geometry.warps} + warp)"
        return f"uint32({group} * {self.at_once})" if self.at_once > 1 else f"uint32{group}"

    @property
    def live(self) -> str:
        """Whether this lane has a unit to store."""
        mine = f"lane < uint32({self.at_once})" if self.at_once > 1 else "lane == uint32(0)"
        return mine if self.whole else f"({mine}) & (unit < uint32({self.limit}))"

    # --- one step --------------------------------------------------------------------------------

    def _step(self) -> None:
        """The warp's rows from their first chunk to the stores."""
        w = self.scope.w
        if not self.early and not self.segment.rope:
            self.indices.emit(w)
        self.elements.fetch()
        for row in self.rows:
            zero = ZERO
            if row.anchor not in self._quantised():
                zero = f"({', '.join([zero] * 4)})"
            w.line(f"{self._sum(row)} = {zero}")
        if self.unrolled:
            for r in range(self.rounds):
                rows = [row for row in self.rows if r < rounds(row.anchor)]
                if self.early:
                    self._activations(str(r))
                else:
                    for row in rows:
                        self._fetch(row, str(r))
                for row in rows:
                    self._accumulate(row, str(r))
        else:
            self._loop()
        sums = {}
        self._across_lanes()
        for anchor in self.anchors:
            for i in self.indices.names:
                sums[anchor.name, i] = self._mine(anchor, i)
        self.elements.compute(sums)

    def _loop(self) -> None:
        """All chunks of the rows, 32 at a time; shorter rows of another format end earlier."""
        for count in sorted(set(map(rounds, self.anchors))):
            self._all_rounds([row for row in self.rows if rounds(row.anchor) == count])

    def _all_rounds(self, rows: Sequence[Row]) -> None:
        """All chunks of rows that have equally many."""
        count = rounds(rows[0].anchor)
        held = sum(chunk_registers(row.anchor.inputs[1]) for row in rows)
        together = max(1, min(MOST_UNROLLED, count, REGISTERS // held))
        turns = count // together
        with self.scope.w.block(f"for turn in range({turns}):"):
            self._together(rows, [f"(turn * {together} + {k}) * {WARP}" for k in range(together)])
        if rest := range(turns * together, count):
            self._together(rows, [f"{r * WARP}" for r in rest])

    def _together(self, rows: Sequence[Row], starts: Sequence[str]) -> None:
        """Some chunks of the rows, all on their way before the first is used: memory is far."""
        self._fetch_all(rows, starts)
        self._use_all(rows, len(starts))

    def _fetch_all(self, rows: Sequence[Row], starts: Sequence[str]) -> None:
        for k, start in enumerate(starts):
            self._chunk(str(k), f"{start} + lane")
            for row in rows:
                self._fetch(row, str(k))

    def _use_all(self, rows: Sequence[Row], count: int) -> None:
        """Multiply and add the first chunks that are loaded of the rows."""
        for k in range(count):
            self._activations(str(k))
            for row in rows:
                self._accumulate(row, str(k))

    def _across_lanes(self) -> None:
        """Add the lanes' sums up; several rows take turns, so that none waits for itself."""
        w = self.scope.w
        for row in self.rows:
            if row.anchor not in self._quantised():
                w.line(f"{self._sum(row)} = of_quad({self._sum(row)})")
        late = self.prologue.late_of(self.anchors)
        for squares in late:
            w.line(f"{squares.factor} = {squares.of_lane}")
        sums = self._sums()
        every = [*((names, self._reach(names)) for names in sums)]
        every += [([squares.factor], WARP) for squares in late]
        if len(every) == 1 and len(sums[0]) == 1 and every[0][1] == WARP:
            w.line(f"{sums[0][0]} = warp_sum({sums[0][0]})")
        else:
            for distance in (1, 2, 4, 8, 16):
                every = [
                    (self._add_rows(names, distance) if distance < reach else names, reach)
                    for names, reach in every
                ]
        for row in self.rows:
            if branch := branch_of(row.anchor):
                exponent = branch.bit_length() - 1
                w.line(f"{self._sum(row)} = sum_of_branches({self._sum(row)}, {exponent})")
        for squares in late:
            w.line(squares.made_of(squares.factor))
        units = (row for row in self.rows if row.slot == 0)
        for row, (s, *_) in zip(units, sums, strict=False):
            if factor := self.prologue.factor(row.anchor):
                w.line(f"{s} = {s} * {factor}")

    def _reach(self, names: list[str]) -> int:
        """Lanes over which sums are added in order: all, or those that have a part of the row."""
        row = next(row for row in self.rows if self._sum(row) in names)
        return branch_of(row.anchor) or WARP

    def _sums(self) -> list[list[str]]:
        """Sums of lanes that are added up apart: of several, lanes go on with one each."""
        if self.shares_lanes:
            rows = range(self.at_once)
            return [[f"sum_{self._name(a, str(g))}" for g in rows] for a in self.anchors]
        return [[self._sum(row)] for row in self.rows]

    @property
    def shares_lanes(self) -> bool:
        """Whether a lane ends with the sum of one of the warp's rows, the one it goes on with.

        Then only half as many sums are exchanged at every distance, until there is one.
        """
        several = self.at_once > 1 and self.at_once & (self.at_once - 1) == 0
        return several and not self.segment.rope and not any(map(branch_of, self.anchors))

    def _add_rows(self, names: list[str], distance: int) -> list[str]:
        """Sums of rows over one more distance: of two, each lane keeps the one that it wants."""
        w = self.scope.w
        if len(names) == 1:
            w.line(f"{names[0]} = add_across({names[0]}, uint32({distance}))")
            return names
        for a, b in zip(names[::2], names[1::2], strict=True):
            if a != ZERO:
                w.line(f"{a} = add_kept({a}, {b}, lane, uint32({distance}))")
        return names[::2]

    def _mine(self, anchor: Node, i: str) -> str:
        """The sum of the row that is this lane's unit."""
        if self.segment.rope:
            return f"sum_{self._name(anchor, i[1:])}"
        mine = f"sum_{self._name(anchor, '0')}"
        for g in range(1, self.at_once) if not self.shares_lanes else ():
            own = f"{self.own_row} == uint32({g})"
            mine = f"select_f32({own}, sum_{self._name(anchor, str(g))}, {mine})"
        return mine
