"""The work of one lane on a chunk of a tile: its products with the vector's digits (see `tiles`).

A chunk has four spans of 32 elements. Two of them are read at a time: with more, lanes would run
out of registers.

Four lanes share a row, and the tensor cores give each of them other sums. If a span has one scale,
a lane has the products with one digit of the vector. If its halves have a scale each, a lane has,
for one half, either the products with the two upper digits, as one number, or those with the
lowest. Minima are summed up separately, those of a span by one of the lanes. At the end of a row
each lane multiplies its sum by its digit's place value and subtracts its minima; the four lanes
added up are the row's sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.codegen import formats
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.formats import QuantFormat
from fusec.codegen.formats.tiles import CHUNK
from fusec.ir.graph import Node
from fusec.writer import Writer

ROWS = ("upper", "lower")  # of the two that a lane multiplies


def format_of(anchor: Node) -> QuantFormat:
    """The format of a matvec's matrix."""
    fmt = formats.get(anchor.inputs[1].dtype)
    assert isinstance(fmt, QuantFormat)
    return fmt


class TileProducts:
    """Emits the products of the matvecs `anchors`; `slot` and `chunk` say of which record."""

    def __init__(self, w: Writer, prologue: Prologue, anchors: Sequence[Node]) -> None:
        self.w, self.prologue, self.anchors = w, prologue, anchors

    def of_lane(self) -> None:
        """What a lane is in every product."""
        w = self.w
        w.line("t = uint32(lane & uint32(3))")
        w.line("row = uint32(lane >> uint32(2))")
        if any(map(self._has_halves, self.anchors)):
            w.line("kept = kept_by_lane(lane)")
            w.line("own_span, own_half = uint32(t & uint32(1)), uint32(t >> uint32(1))")

    def of_vectors(self) -> None:
        """Where a lane finds what it needs of the vectors."""
        w = self.w
        for prefix, anchor in {self._prefix(anchor): anchor for anchor in self.anchors}.items():
            made, own = self.prologue.fixed[anchor.inputs[0].name], self._own_span(anchor)
            halves = self._has_halves(anchor)
            w.line(f"{prefix}_words = digits_of_lane({made.digits}, lane, {halves})")
            w.line(f"{prefix}_scales = uint32({made.scales} + {own} * 4)")
            if made.sums:
                w.line(f"{prefix}_sums = uint32({made.sums} + {own} * 8)")

    @staticmethod
    def _has_halves(anchor: Node) -> bool:
        """Whether halves of spans have scales of their own."""
        return format_of(anchor).group == 16

    def _prefix(self, anchor: Node) -> str:
        """Of the variables that say where a lane finds what it needs of an anchor's vector."""
        what = "half" if self._has_halves(anchor) else "whole"
        return f"x{anchor.inputs[0].name[1:]}_{what}"

    def _own_span(self, anchor: Node) -> str:
        """The first of the spans whose scales this lane makes."""
        return "own_span" if self._has_halves(anchor) else "t"

    def begin(self, anchor: Node) -> None:
        """A row's sums."""
        self.w.line("upper, lower = float32(0), float32(0)")
        if format_of(anchor).has_min:
            self.w.line("upper_less, lower_less = float32(0), float32(0)", "minima")

    def end(self, anchor: Node) -> None:
        """The four lanes of a row add up."""
        has_min, halves = format_of(anchor).has_min, self._has_halves(anchor)
        self.w.line(f"worth = worth_of_lane(t, {halves})")
        for row in ROWS:
            less = f"{row}_less" if has_min else "float32(0)"
            if has_min and halves:
                less = f"only(t < uint32(2), {less})"
            self.w.line(f"{row} = of_lanes({row}, worth, {less})")

    def read_scales(self, anchor: Node) -> None:
        """The scales of some of the chunk's spans: lanes share that work.

        Lane t of four makes those of span t; where halves have scales of their own, of half t / 2
        of spans t % 2 and 2 + t % 2.
        """
        w, fmt, halves = self.w, format_of(anchor), self._has_halves(anchor)
        scale = "own_scale_{}(fields, own_half)" if halves else "scale_{}(fields)"
        half = "own_half" if halves else "uint32(0)"
        for k, ahead in self._own(anchor):
            for at, row in enumerate(ROWS):
                where = f"slot, row, {8 * at}, {self._own_span(anchor)}, {ahead}, {half}"
                w.line(f"fields = tile_fields_{fmt.name}({where})")
                w.line(f"{row}_scale{k} = {scale.format(fmt.name)}")
                if fmt.has_min:
                    w.line(f"{row}_least{k} = min_{fmt.name}(fields)")

    def _own(self, anchor: Node) -> list[tuple[int, int]]:
        """The spans whose scales this lane makes: their numbers, behind the first."""
        every = 2 if self._has_halves(anchor) else CHUNK
        return [(k, k * every) for k in range(CHUNK // every)]

    def scale(self, anchor: Node) -> None:
        """The scales times those of the vector's blocks."""
        w, fmt, prefix = self.w, format_of(anchor), self._prefix(anchor)
        for k, ahead in self._own(anchor):
            block = f"chunk * {CHUNK} + {ahead}"
            w.line(f"quantum = load_shared_f32(uint32({prefix}_scales + ({block}) * 4))")
            if fmt.has_min:
                where = f"uint32({prefix}_sums + ({block}) * 8)"
                w.line(f"first_half, second_half = load_shared_f32x2({where})")
            for row in ROWS:
                w.line(f"{row}_scale{k} = {row}_scale{k} * quantum")
                if fmt.has_min:
                    total = f"{row}_least{k} * (first_half + second_half)"
                    if self._has_halves(anchor):
                        total = f"least_of_halves({row}_least{k}, first_half, second_half)"
                    w.line(f"{row}_less = fma({total}, quantum, {row}_less)")

    def decode(self, anchor: Node, span: int) -> None:
        """A span's levels, in the lane's two rows; planes are read for two spans at once."""
        w, fmt = self.w, format_of(anchor)
        pair, inside = divmod(span, 2)
        if inside == 0:
            w.line(f"held = load_tile_{fmt.name}(slot, lane, {pair})")
        for half, row in enumerate(ROWS):
            planes = fmt.tile.of_span("held", half, inside)
            w.line(f"{row}_levels{span} = tile_levels_{fmt.name}({planes}, t)")

    def multiply(self, anchor: Node, span: int) -> None:
        """One block of 32 of a chunk, in the lane's two rows."""
        w, fmt, halves = self.w, format_of(anchor), self._has_halves(anchor)
        block = f"uint32(chunk * {CHUNK} + {span})"
        where = f"{self._prefix(anchor)}_words, {block}"
        w.line(f"words = half_words({where}, kept)" if halves else f"words = block_words({where})")
        levels = ", ".join(f"{row}_levels{span}" for row in ROWS)
        terms = "_of_terms" if fmt.coding.terms > 1 else ""
        w.line(f"product = tile_product{terms}({levels}, words)")
        for row, column in zip(ROWS, (0, 2), strict=True):
            found = f"s32_to_f32(product[{column}])"
            scale = f"shuffle_of_four_f32({row}_scale0, uint32({span}))"
            if halves:
                found = f"two_digits(product[{column}], product[{column + 1}], t)"
                owner = f"uint32(own_half * 2 + uint32({span % 2}))"
                scale = f"shuffle_of_four_f32({row}_scale{span // 2}, {owner})"
            w.line(f"{row} = fma({found}, {scale}, {row})")

    def words(self, anchor: Node, spans: range) -> list[str]:
        """The words of decoded spans and of the chunk's scales."""
        found = [f"bits_u32({row}_scale{k})" for k, _ in self._own(anchor) for row in ROWS]
        terms = ("[0]", "[1]") if format_of(anchor).coding.terms > 1 else ("",)
        names = [f"{row}_levels{span}{term}" for span in spans for row in ROWS for term in terms]
        return found + [f"{name}[{half}]" for name in names for half in (0, 1)]
