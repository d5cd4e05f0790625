"""Vectors that the thread blocks of a product bring into fixed point for themselves.

In a step of few rows that is quicker than a launch of its own that does it once: each warp takes
some of the tile's rows of the step, whole, and leaves their records in shared memory. Sums of
squares are added up as kernels for one row do (`lib.vectors`), by one lane where these use memory.
"""

from __future__ import annotations

from fusec.codegen import formats
from fusec.codegen.cuda.forms import Squares
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.scope import Scope, words
from fusec.codegen.cuda.shape import WARP, anchors
from fusec.codegen.cuda.sources import Source
from fusec.codegen.cuda.stages import Stage
from fusec.codegen.formats import QuantFormat
from fusec.ir.choice import Tiling
from fusec.ir.graph import Node, Value
from fusec.ir.op_fixed import BLOCK, OWN_RECORD
from fusec.ir.region import KernelShape

MOST_AT_ONCE = 6  # quads of a row that a lane loads before it uses the first


class Vectors:
    """Those of one kernel."""

    def __init__(self, scope: Scope, shape: KernelShape, tiling: Tiling) -> None:
        self.scope, self.w, self.shape, self.tiling = scope, scope.w, shape, tiling
        self.of_row: dict[str, str] = {}
        self.prologue = Prologue(scope, shape)
        self.count: dict[str, int] = {}  # vector -> records of a row
        self.start: dict[str, int] = {}  # the same -> where the first is, from `stage` on

    def place(self, start: int, count: dict[str, int]) -> int:
        """Say how many records products read of each vector; returns the bytes from `start` on.

        A tile has eight rows of the step, which are a record.
        """
        self.count, end = count, start
        for name, records in count.items():
            self.start[name] = end
            end += records * OWN_RECORD
        return end - start

    @property
    def read(self) -> list[Value]:
        """What is read of other kernels: a row for each of the step's."""
        inside = self.scope.region.producers
        values = [v for n in self.shape.prologue for v in n.inputs if not v.is_weight]
        return list({v.name: v for v in values if v.name not in inside}.values())

    def own(self, product: Node) -> tuple[int, int]:
        """Where the records of a product's vector are, and how many a row has."""
        name = product.inputs[0].name
        return self.start.get(name, 0), self.count.get(name, 0)

    def emit(self, of_row: dict[str, str]) -> None:
        """From the loads to the records.

        `of_row`: the inverse of a norm -> where in shared memory the rows' values go.
        """
        self.of_row = of_row
        with self.w.at(Stage.LOAD):
            self.prologue.vectors()
            self._zeros()
        warps = self.tiling.threads // WARP
        for turn in range(-(-self.tiling.width // warps)):
            for k, (value, source) in enumerate(self.prologue.kept_fixed.items()):
                self._row(turn, f"{turn}_{k}", value, source)

    def _zeros(self) -> None:
        """Records behind the last block, whose products some warps add."""
        w, threads = self.w, self.tiling.threads
        for value in self.prologue.kept_fixed:
            blocks, count = value.shape[-1] // BLOCK, self.count[value.name]
            more = (count - blocks) * OWN_RECORD // 4
            if more:
                first = self.start[value.name] + blocks * OWN_RECORD
                with w.block(f"for step in range({-(-more // threads)}):"):
                    w.line(f"k = uint32(uint32(step * {threads}) + thread)")
                    where = f"uint32(stage + {first} + k * 4)"
                    w.line(f"store_shared_u32_if({where}, uint32(0), k < uint32({more}))")

    def _row(self, turn: int, tag: str, value: Value, source: Source) -> None:
        """The warp's row of a turn: a few quads at a time on their way, then in fixed point."""
        w, quads = self.w, value.shape[-1] // 4
        steps = -(-quads // WARP)
        squares = {n: s for n, s in self.prologue.squares.items() if self._is_of(s, source)}
        with w.at(Stage.READ if steps <= MOST_AT_ONCE else Stage.MAKE):
            self._find_row(turn, tag, value)
            if steps <= MOST_AT_ONCE:
                made = [self._fetch(source, f"{tag}_{s}", f"{s * WARP}") for s in range(steps)]
        with w.at(Stage.MAKE):
            if squares:
                w.line(f"total{tag} = float32(0)")
            if steps <= MOST_AT_ONCE:
                for k, quad in enumerate(made):
                    self._store(value, tag, f"{tag}_{k}", quad, quads, bool(squares))
            else:
                self._loop(value, tag, source, bool(squares))
            for inverse, s in squares.items():
                w.line(s.made_of(f"warp_sum(total{tag})"))
                where = f"uint32({self.of_row[inverse]} + near{tag} * 4)"
                w.line(f"store_shared_f32_if({where}, {s.factor}, live{tag} & (lane == uint32(0)))")

    def _is_of(self, squares: Squares, source: Source) -> bool:
        return self.prologue.sources.get(squares.vector) is source

    def _find_row(self, turn: int, tag: str, value: Value) -> None:
        """Which row of the step, and where it goes."""
        w, width, warps = self.w, self.tiling.width, self.tiling.threads // WARP
        w.line(f"near{tag} = min_u32(uint32(warp + {turn * warps}), uint32({width - 1}))")
        w.line(f"live{tag} = uint32(warp + {turn * warps}) < uint32({width})")
        w.line(f"its = min_u32(uint32(first_row + near{tag}), uint32(there_are - 1))")
        for other in self.read:
            name = self.scope.pointers[other.name]
            w.line(f"{name} = at(all_{name}, uint32(its * uint32({words(other)})))")
        w.line(f"records{tag} = uint32(stage + {self.start[value.name]})")

    def _fetch(self, source: Source, tag: str, first: str) -> str:
        """A quad on its way; returns its expression."""
        w = self.w
        w.line(f"i{tag} = uint32(lane + {first})")
        source.fetch_weights(w, f"i{tag}", tag)
        return source.fetch(w, f"i{tag}", tag)

    def _store(
        self, value: Value, row: str, tag: str, quad: str, quads: int, has_squares: bool
    ) -> None:
        """A quad in fixed point, and its squares."""
        w = self.w
        inside = f"live{row} & (i{tag} < uint32({quads}))"
        given = f"{quad}, i{tag}, {inside}, records{row}, near{row}, {self._has_sums(value)}"
        w.line(f"store_record_{value.dtype}({given})")
        if has_squares:
            w.line(f"total{row} = total{row} + squares_of_quad(quad{tag})")

    def _has_sums(self, value: Value) -> bool:
        """Whether some product needs sums of a block's integers."""
        products = (n for s in self.shape.segments for n in anchors(s) if n.inputs[0] == value)
        found = (formats.get(n.inputs[1].dtype) for n in products)
        return any(isinstance(fmt, QuantFormat) and fmt.has_min for fmt in found)

    def _loop(self, value: Value, tag: str, source: Source, has_squares: bool) -> None:
        """A long row."""
        quads, each = value.shape[-1] // 4, WARP * MOST_AT_ONCE
        with self.w.block(f"for step in range({-(-quads // each)}):"):
            made = [
                self._fetch(source, f"{tag}_{s}", f"uint32(step * {each}) + {s * WARP}")
                for s in range(MOST_AT_ONCE)
            ]
            for s, quad in enumerate(made):
                self._store(value, tag, f"{tag}_{s}", quad, quads, has_squares)
