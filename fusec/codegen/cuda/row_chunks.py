"""Chunks of rows: what a lane loads of them, and their products with a vector's chunks.

The variables that hold a chunk end in `r`, its number among those that a lane holds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from fusec.codegen import formats
from fusec.codegen.cuda.block_products import accumulate, decode
from fusec.codegen.cuda.forms import behind
from fusec.codegen.cuda.matvecs import Matvecs
from fusec.codegen.cuda.scope import identifier
from fusec.codegen.cuda.shape import WARP, chunks
from fusec.codegen.formats import FloatFormat, QuantFormat
from fusec.ir.graph import Node


class Row(NamedTuple):
    """A row that a warp multiplies: of which matvec, the variable of its number, and a suffix.

    `slot`: which of the terms of an element it makes, where it has several.
    """

    anchor: Node
    number: str
    suffix: str
    slot: int = 0


class RowChunks(Matvecs):
    """Those of one segment. `early`: a chunk is decoded where it is loaded."""

    @property
    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """What a warp does at once."""

    def _chunk(self, r: str, number: str) -> None:
        self.scope.w.line(f"chunk{r} = {f'uint32({number})' if number != 'lane' else number}")

    def _fetch(self, row: Row, r: str) -> None:
        weight = row.anchor.inputs[1]
        count = chunks(weight)
        pointer = self.scope.pointers[weight.name]
        size = f"{self._matrix_rows(row.anchor)}, {count}"
        chunk = self._inside(f"chunk{r}", count)
        call = f"fetch_{weight.dtype}({pointer}, {size}, {self._place(row)}, {chunk})"
        self.scope.w.line(f"{self._loaded(row, r)} = {call}")

    @staticmethod
    def _inside(chunk: str, count: int) -> str:
        """The last of `count` chunks where there is none of that number."""
        return f"min_u32({chunk}, uint32({count - 1}))" if count % WARP else chunk

    def _place(self, row: Row) -> str:
        """Expression of where a row lies in its matrix."""
        return row.number

    def _matrix_rows(self, anchor: Node) -> str:
        several = isinstance(self.limit, str) and not self.segment.rope
        return str(self.limit) if several else str(anchor.inputs[1].shape[0])

    @staticmethod
    def _name(anchor: Node, suffix: str) -> str:
        return f"{identifier(anchor.inputs[1])}_{suffix}"

    def _sum(self, row: Row) -> str:
        """The variable of a row's running sum."""
        return f"sum_{self._name(row.anchor, row.suffix)}"

    def _loaded(self, row: Row, r: str) -> str:
        """The variable of what a lane loads of a chunk: shared like `_levels` where it is kept."""
        if isinstance(formats.get(row.anchor.inputs[1].dtype), FloatFormat):
            return f"floats{self.rows.index(row)}_{r}"
        return f"{self._name(row.anchor, row.suffix)}_{r}"

    def _levels(self, row: Row, r: str) -> str:
        """The variable of a chunk's levels, the same in every segment of the kernel.

        A block has rows of one segment, so the same registers do for all of them; they would not
        be shared by different variables.
        """
        return f"levels{self.rows.index(row)}_{r}"

    def _activations(self, r: str) -> None:
        """This lane's chunk of every vector that is in fixed point."""
        for name in dict.fromkeys(a.inputs[0].name for a in self._quantised()):
            self._chunk_of(name, r, 0, self.prologue.fixed[name].blocks)

    def _chunk_of(self, vector: str, r: str, first: int, count: int) -> None:
        """This lane's chunk of the `count` that a vector has from the `first` on."""
        w, fixed, x, chunk = (
            self.scope.w,
            self.prologue.fixed[vector],
            f"x{vector[1:]}",
            f"chunk{r}",
        )
        values = {"scale": fixed.scales} | ({"sum": fixed.sums} if fixed.sums else {})
        of_block = f"load_shared_f32(uint32({{}} + {chunk} * 4))"
        if count % WARP:
            of_block = f"load_of_block({{}}, {chunk}, {count})"
        given = f"{behind(fixed.digits, 16 * first)}, {self._inside(chunk, count)}"
        w.line(f"{x}_digits{r} = load_digits({given}, {fixed.blocks})")
        for what, address in values.items():
            w.line(f"{x}_{what}{r} = {of_block.format(behind(address, 4 * first))}")

    def _quantised(self) -> list[Node]:
        return [a for a in self.anchors if isinstance(formats.get(a.inputs[1].dtype), QuantFormat)]

    def _decode(self, row: Row, r: str) -> None:
        """What needs no activations of a chunk's products."""
        fmt = formats.get(row.anchor.inputs[1].dtype)
        if isinstance(fmt, QuantFormat):
            decode(self.scope.w, fmt, self._loaded(row, r), self._levels(row, r))

    def _accumulate(self, row: Row, r: str) -> None:
        """Add one chunk's products to the row's running sum."""
        w = self.scope.w
        x, weight = row.anchor.inputs[:2]
        fmt = formats.get(weight.dtype)
        s, loaded = self._sum(row), self._loaded(row, r)
        if isinstance(fmt, FloatFormat):
            size = {4: "four", 8: "eight"}[fmt.cuda_chunk]
            floats, chunk = self._floats(row, f"floats_{fmt.name}({loaded})", f"chunk{r}", size)
            given = f"{s}, {floats}, {self.prologue.floats[x.name]}, {chunk}"
            w.line(f"{s} = accumulate_{size}({given})")
            return
        assert isinstance(fmt, QuantFormat)
        if not self.early:
            self._decode(row, r)
        vector = f"x{x.name[1:]}"
        digits, scale, total = (f"{vector}_{what}{r}" for what in ("digits", "scale", "sum"))
        accumulate(w, fmt, s, loaded, self._levels(row, r), digits, scale, total)

    def _floats(self, _row: Row, floats: str, chunk: str, _size: str) -> tuple[str, str]:
        """Plain floats that a lane multiplies, and the chunk of the vector that it does with."""
        return floats, chunk
