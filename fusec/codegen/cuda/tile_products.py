"""What a lane does with its words of a chunk of a tile, and of the vector (see `tiles`).

A chunk has four spans of 32 elements. Two of them are read at a time: with more, lanes would run
out of registers.
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
        w.line("even = uint32(t & uint32(1)) == uint32(0)")
        w.line("upper_digit = select_s32(even, int32(256), int32(0))")
        w.line("row = uint32(lane >> uint32(2))")
        if any(format_of(a).group == 16 for a in self.anchors):
            w.line("masks = masks_of_lane(lane)")
            w.line("pair = uint32(t & uint32(2))")
        if any(format_of(a).has_min for a in self.anchors):
            first = "t == uint32(0)"
            w.line(f"lowest = select_f32({first}, float32(0.00390625), float32(0))", "1 / 256")

    def of_vectors(self) -> None:
        """Where a lane finds its words of the vectors."""
        for name in dict.fromkeys(a.inputs[0].name for a in self.anchors):
            here = f"digits_of_lane({self.prologue.fixed[name].digits}, lane)"
            self.w.line(f"{self._x(name)}_lane = {here}")

    @staticmethod
    def _x(name: str) -> str:
        return f"x{name[1:]}"

    def read_scales(self, anchor: Node) -> None:
        """The scales of some of the chunk's spans: lanes share that work.

        Lane t of four makes those of span t; where halves have scales of their own, of half t / 2
        of spans t % 2 and 2 + t % 2.
        """
        w, fmt = self.w, format_of(anchor)
        for k, own in self._own(anchor):
            for at, row in enumerate(ROWS):
                number = "uint32(row + uint32(8))" if at else "row"
                w.line(f"fields = tile_fields_{fmt.name}(slot, {number}, {own})")
                scale = f"scale_{fmt.name}(fields)"
                scale = f"of_own_half({scale}, t)" if fmt.group == 16 else scale
                w.line(f"{row}_scale{k} = {scale}")
                if fmt.has_min:
                    w.line(f"{row}_least{k} = min_{fmt.name}(fields)")

    def _own(self, anchor: Node) -> list[tuple[int, str]]:
        """The spans whose scales this lane makes."""
        every = 2 if format_of(anchor).group == 16 else CHUNK
        own = f"uint32(t & uint32({every - 1}))"
        return [(k, f"uint32({own} + {k * every})" if k else own) for k in range(CHUNK // every)]

    def scale(self, anchor: Node) -> None:
        """The scales times those of the vector's blocks."""
        w, fmt = self.w, format_of(anchor)
        made = self.prologue.fixed[anchor.inputs[0].name]
        for k, own in self._own(anchor):
            w.line(f"block_of_own = uint32(chunk * {CHUNK} + {own})")
            w.line(f"quantum = load_shared_f32(uint32({made.scales} + block_of_own * 4))")
            if fmt.has_min:
                where = f"uint32({made.sums} + block_of_own * 8)"
                w.line(f"first_half, second_half = load_shared_f32x2({where})")
            for row in ROWS:
                w.line(f"{row}_scale{k} = {row}_scale{k} * quantum")
                if fmt.has_min:
                    total = f"{row}_least{k} * (first_half + second_half)"
                    if fmt.group == 16:
                        total = f"least_of_halves({row}_least{k}, first_half, second_half)"
                    w.line(f"{row}_sum{k} = {total} * quantum")

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
        w, fmt = self.w, format_of(anchor)
        x, halves = self._x(anchor.inputs[0].name), fmt.group == 16
        w.line(f"words = block_words({x}_lane, uint32(chunk * {CHUNK} + {span}))")
        if halves:
            w.line("words = halved(words, masks)")
        levels = ", ".join(f"{row}_levels{span}" for row in ROWS)
        terms = "_of_terms" if fmt.coding.terms > 1 else ""
        w.line(f"product = tile_product{terms}({levels}, words)")
        number, k = (f"uint32(pair + {span % 2})", span // 2) if halves else (f"uint32({span})", 0)
        for row, column in zip(ROWS, (0, 2), strict=True):
            digits = f"two_digits(product[{column}], product[{column + 1}], upper_digit)"
            w.line(f"{row} = fma({digits}, shuffle_of_four_f32({row}_scale{k}, {number}), {row})")
            if fmt.has_min:
                owner = f"uint32({span % 2})" if halves else number
                least = f"shuffle_of_four_f32({row}_sum{k}, {owner})"
                w.line(f"{row} = fma(-{least}, lowest, {row})")

    def words(self, anchor: Node, spans: range) -> list[str]:
        """The words of decoded spans and of the chunk's scales."""
        found = [f"bits_u32({row}_scale{k})" for k, _ in self._own(anchor) for row in ROWS]
        terms = ("[0]", "[1]") if format_of(anchor).coding.terms > 1 else ("",)
        names = [f"{row}_levels{span}{term}" for span in spans for row in ROWS for term in terms]
        return found + [f"{name}[{half}]" for name in names for half in (0, 1)]
