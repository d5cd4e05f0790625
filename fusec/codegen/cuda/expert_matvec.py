"""Rows of matrices that ids choose, times vectors.

Which rows those are is known when the launch in front has ended. Where a warp makes its rows in one
step, it asks for them beside the vector, and not when that is in the form that products want.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.codegen import formats
from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.matvec import ZERO, Matvec, Row
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.scope import identifier
from fusec.codegen.cuda.shape import CHOSEN_REGISTERS, WARP, chunk_registers, chunks, rounds, terms
from fusec.codegen.formats import FloatFormat
from fusec.errors import FusecError
from fusec.ir.graph import Node
from fusec.ir.op_experts import adds_experts
from fusec.ir.ops import picks_rows


class ExpertMatvec(Matvec):
    """A segment with such products.

    Element i of a product with one vector is of the expert in slot i // rows. An element of a
    product with several parts of a vector has a term for each slot, summed up by itself.
    """

    room = CHOSEN_REGISTERS

    def __init__(self, alike: Alike, prologue: Prologue) -> None:
        super().__init__(alike, prologue)
        self.ahead, self.early, self.unrolled = self.early, False, False
        for node in filter(picks_rows, self.anchors):
            fmt, weight = formats.get(node.inputs[1].dtype), node.inputs[1]
            if isinstance(fmt, FloatFormat) and weight.shape[1] % fmt.cuda_chunk:
                raise FusecError(
                    f"{node.op} making {node.name}: expected rows of whole chunks of "
                    f"{fmt.cuda_chunk} elements, found {weight.type}"
                )

    @property
    def rows(self) -> Sequence[Row]:
        """See `Matvec.rows`."""
        return [
            Row(a, f"row{g}", f"{g}_{slot}" if slot else str(g), slot)
            for g in range(self.at_once)
            for a in self.anchors
            for slot in range(terms(a))
        ]

    def beside_reads(self) -> None:
        """See `Matvecs`: all weights of a warp's one step."""
        if not self.ahead:
            return
        self._choose()
        self._rows("0")
        for rows in self._batches():
            self._fetch_all(rows, [f"{r * WARP}" for r in range(rounds(rows[0].anchor))])
        self.indices.emit(self.scope.w)
        self.elements.fetch()

    def _rest(self) -> None:
        """See `Matvecs`."""
        if self.ahead:
            self._step()
            return
        self._choose()
        super()._rest()

    # --- which rows ------------------------------------------------------------------------------

    def _choose(self) -> None:
        """The first rows of the experts in all slots, for products that add them up."""
        first = {self._first(n, s): (n, s) for n in self._sums_of_slots for s in range(terms(n))}
        for name, (node, slot) in first.items():
            ids = self.scope.pointers[node.inputs[2].name]
            line = f"{name} = uint32(load_u32(at({ids}, uint32({slot}))) * {node['rows']})"
            self.scope.w.line(line)

    @property
    def _sums_of_slots(self) -> list[Node]:
        return [node for node in self.anchors if adds_experts(node)]

    @staticmethod
    def _first(node: Node, slot: int) -> str:
        """The variable with the first row of a slot's expert."""
        return f"first{slot}_of_{identifier(node.inputs[2])}_{node['rows']}"

    def _rows(self, step: str) -> None:
        """See `Matvec`; and where rows of products with one vector lie."""
        super()._rows(step)
        for row in {self._place(row): row for row in self.rows if self._is_by_row(row)}.values():
            given = f"{self.scope.pointers[row.anchor.inputs[2].name]}, {row.number}"
            self.scope.w.line(f"{self._place(row)} = row_of_expert({given}, {row.anchor['rows']})")

    @staticmethod
    def _is_by_row(row: Row) -> bool:
        return picks_rows(row.anchor) and not adds_experts(row.anchor)

    def _place(self, row: Row) -> str:
        """See `Matvec`."""
        if self._is_by_row(row):
            return f"{row.number}_of_{identifier(row.anchor.inputs[2])}_{row.anchor['rows']}"
        if adds_experts(row.anchor):
            return f"uint32({self._first(row.anchor, row.slot)} + {row.number})"
        return row.number

    def _matrix_rows(self, anchor: Node) -> str:
        """See `Matvec`."""
        return (
            str(anchor.inputs[1].shape[0]) if picks_rows(anchor) else super()._matrix_rows(anchor)
        )

    # --- chunks ----------------------------------------------------------------------------------

    def _batches(self) -> list[list[Row]]:
        """Rows of equally many chunks that are loaded together, those of slots in order."""
        alone = [row for row in self.rows if not adds_experts(row.anchor)]
        counts = sorted({rounds(row.anchor) for row in alone})
        found = [[row for row in alone if rounds(row.anchor) == count] for count in counts]
        for node in self._sums_of_slots:
            rows = sorted((r for r in self.rows if r.anchor is node), key=lambda row: row.slot)
            room = max(1, self.room // chunk_registers(node.inputs[1]))
            found += [rows[k : k + room] for k in range(0, len(rows), room)]
        return found

    def _loop(self) -> None:
        """See `Matvec`."""
        for rows in self._batches():
            if self.ahead:
                self._use_all(rows, rounds(rows[0].anchor))
            else:
                self._all_rounds(rows)

    def _use_all(self, rows: Sequence[Row], count: int) -> None:
        """See `Matvec`; each slot has chunks of the vector of its own."""
        if not adds_experts(rows[0].anchor):
            super()._use_all(rows, count)
            return
        x, weight = rows[0].anchor.inputs[:2]
        for k in range(count):
            for slot in dict.fromkeys(row.slot for row in rows):
                if rows[0].anchor in self._quantised():
                    self._chunk_of(x.name, str(k), slot * chunks(weight), chunks(weight))
                for row in (row for row in rows if row.slot == slot):
                    self._accumulate(row, str(k))

    def _activations(self, r: str) -> None:
        """See `Matvec`: of vectors that have no part for each slot."""
        found = [a for a in self._quantised() if not adds_experts(a)]
        for name in dict.fromkeys(a.inputs[0].name for a in found):
            self._chunk_of(name, r, 0, self.prologue.fixed[name].blocks)

    def _floats(self, row: Row, floats: str, chunk: str, size: str) -> tuple[str, str]:
        """See `Matvec`; behind a slot's chunks are those of the next."""
        if not adds_experts(row.anchor):
            return floats, chunk
        count = chunks(row.anchor.inputs[1])
        own = f"uint32(min_u32({chunk}, uint32({count - 1})) + {row.slot * count})"
        return f"inside_row_of_{size}({floats}, {chunk}, {count})", own

    # --- sums ------------------------------------------------------------------------------------

    def _sums(self) -> list[list[str]]:
        """See `Matvec`: the terms of an element, as many as a power of two."""
        if not self._sums_of_slots:
            return super()._sums()
        found = []
        for first in (row for row in self.rows if row.slot == 0):
            names = [self._sum(row) for row in self.rows if row[:2] == first[:2]]
            found.append(names + [ZERO] * ((1 << (len(names) - 1).bit_length()) - len(names)))
        return found

    def _across_lanes(self) -> None:
        """See `Matvec`. The term of slot s is in all lanes whose number ends with the bits of s."""
        super()._across_lanes()
        for row in (row for row in self.rows if row.slot == 0):
            for bit in range((terms(row.anchor) - 1).bit_length()):
                s = self._sum(row)
                self.scope.w.line(f"{s} = add_across({s}, uint32({1 << bit}))")

    @property
    def shares_lanes(self) -> bool:
        """See `Matvec`."""
        return super().shares_lanes and not self._sums_of_slots
