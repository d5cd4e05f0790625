"""Matrices in tiles of 16 rows times a vector, by all warps of a thread block on the tensor cores.

The canonical order: warp w of 16 takes chunks w, w + 16, ... of a row (a chunk is a row's share of
a record, see `fusec.codegen.formats.tiles`) and adds the products of their blocks to running sums,
as `tile_products` says. At the end the sums of the 16 warps are added as a balanced tree. The
halves of long rows are each summed up like this, and then added.

A warp copies its records into a ring of its own in shared memory, the first ones before the wait,
one at a time, and asks for the next as soon as it has read one. So no registers hold weights, and
an SM has room for the next launch, whose first weights arrive while this one multiplies.

Where blocks are paired (a cluster of two), each reads and converts its half of the vectors, and
multiplies it by both blocks' tiles: first by the other one's, so that these partial sums are on
their way while it multiplies its own. They are counted where they arrive, as in
`attention_project`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.matvecs import Matvecs
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.ring import Ring
from fusec.codegen.cuda.scope import identifier
from fusec.codegen.cuda.shape import TILE_WARPS, WARP, column_parts, tile_units
from fusec.codegen.cuda.stages import Stage
from fusec.codegen.cuda.tile_products import ROWS, TileProducts, format_of
from fusec.codegen.formats.tiles import CHUNK
from fusec.ir.graph import Node
from fusec.ir.target import TILE_ROWS

AHEAD = 4  # terms of spans that a lane decodes beside the reads: more do not fit its registers
AHEAD_OF_PAIR = 8  # the same where it reads half of the vector
ROW = 4 * TILE_WARPS + 16  # bytes of a row's sums, or of half of its columns; rows in other banks
PARTIALS = ROW * TILE_ROWS


@dataclass(frozen=True)
class Share:
    """Chunks of a tile that the warps multiply at once, one each.

    Chunk `turn * 16 + warp` of matrix `anchor`, in the `part`-th tile of the matrix that a tile of
    units has: rotations by halves take rows that are not neighbours. `half` of the columns: 0, 1,
    or the variable of a block that has one of both. `sent`: the tile is that of the other block.
    """

    anchor: Node
    part: int
    half: int | str
    turn: int
    sent: bool


class TiledMatvec(Matvecs):
    """A segment by tiles."""

    early = True
    loads_at = Stage.COPY

    def __init__(self, alike: Alike, prologue: Prologue) -> None:
        super().__init__(alike, prologue)
        scope, rope = self.scope, self.segment.rope
        self.products = TileProducts(scope.w, prologue, self.anchors)
        self.halves = rope is not None and rope["pairing"] != "adjacent"
        self.parts = 2 if self.halves else 1
        self.paired = scope.geometry.paired
        self.mailbox = scope.shared("mailbox", 8) if self.paired else ""
        self.stages = tuple(self._stages())
        record = max(format_of(anchor).tile.record_bytes for anchor in self.anchors)
        total = self.at_once * self.steps * len(self.stages)
        room = (self._room - self._partial_bytes) // TILE_WARPS
        self.ring = Ring(scope.w, record, total, room)
        needed = self._partial_bytes + self.ring.nbytes * TILE_WARPS
        scope.dynamic = max(scope.dynamic, needed)
        terms = format_of(self.stages[0].anchor).coding.terms
        ahead = min(CHUNK, (AHEAD_OF_PAIR if self.paired else AHEAD) // terms)
        self.ahead = range(ahead if self.at_once * self.steps == 1 and scope.overlaps else 0)

    @property
    def each(self) -> int:
        """Units of a tile."""
        return tile_units(self.segment)

    @property
    def live(self) -> str:
        """See `Matvecs.live`."""
        inside = f"thread < uint32({self.at_once * self.each})"
        return f"({inside}) & (unit < uint32({self.limit}))"

    def _stages(self) -> Iterator[Share]:
        """What a tile of units takes, in order."""
        for sent in (True, False) if self.paired else (False,):
            for part in range(self.parts):
                for anchor in self.anchors:
                    for half in ("half",) if self.paired else range(self._column_parts(anchor)):
                        for turn in range(-(-self._chunks(anchor) // TILE_WARPS)):
                            yield Share(anchor, part, half, turn, sent)

    @staticmethod
    def _column_parts(anchor: Node) -> int:
        """In how many parts a row is summed up."""
        return column_parts(anchor.inputs[1])

    def _chunks(self, anchor: Node) -> int:
        """Of one such part."""
        return anchor.inputs[1].shape[1] // (32 * CHUNK * self._column_parts(anchor))

    @property
    def _tile_bytes(self) -> int:
        """Shared memory for a tile's sums."""
        return PARTIALS * max(map(self._column_parts, self.anchors))

    @property
    def _partial_bytes(self) -> int:
        return self._tile_bytes * self.at_once * self.parts * len(self.anchors)

    @property
    def _room(self) -> int:
        """Bytes of shared memory beside the vectors, their forms and the squares of a norm."""
        columns = sum({a.inputs[0].name: a.inputs[1].shape[1] for a in self.anchors}.values())
        forms = 108 * (columns // 32) // (2 if self.paired else 1)
        return self.scope.room - self.prologue.shape.prologue_bytes - forms - 1536

    # --- in front of the wait --------------------------------------------------------------------

    def load(self) -> None:
        """The first records on their way; other loads are in front of them."""
        w = self.scope.w
        first = f"(block - {self.first})" if self.first != "0" else "block"
        w.line(f"tile = uint32({first} * {self.at_once * self.steps})")
        if self.paired:
            w.line(f"other = uint32({first} ^ uint32(1))")
            w.line(f"its_tile = uint32(other * {self.at_once})")
            sums = TILE_ROWS * TILE_WARPS * self.at_once * self.parts * len(self.anchors)
            nbytes = 4 * sums
            w.line(f"mailbox = {self.mailbox}", "in no register until it is used")
            w.line(f"mailbox_open(mailbox, uint32({nbytes}), thread == uint32(0))")
            w.line("cluster_arrive_relaxed()")
        self.products.of_lane()
        if self.steps == 1 and not self.paired:
            self._begin_unit("tile")
            self.elements.fetch_weights()
        w.line(f"partials = {self.scope.added}")
        self.ring.open(f"partials + {self._partial_bytes} + warp * {self.ring.nbytes}")
        for n in range(self.ring.depth):
            if self.scope.overlaps:
                self.ring.pace(n)
            later, at = divmod(n, len(self.stages))
            tile = "its_tile" if self.stages[at].sent else "tile"
            self._copy(self.stages[at], f"uint32({tile} + {later})", n)

    def _begin_unit(self, tile: str) -> None:
        """This thread's unit of those of the tiles from `tile` on."""
        self.scope.w.line(f"unit = uint32({tile} * {self.each} + thread)")
        self.indices.emit(self.scope.w)

    def _copy(self, stage: Share, tile: str, ahead: int, live: str = "") -> None:
        """Let this warp's record of a stage be copied."""
        w, anchor = self.scope.w, stage.anchor
        layout, chunks = format_of(anchor).tile, self._chunks(anchor)
        parts = self._column_parts(anchor)
        w.line(f"from_tile = min_u32({self._tile_of_matrix(stage, tile)}, {self._last(anchor)})")
        part = f"(from_tile * {parts} + {stage.half})" if parts > 1 else "from_tile"
        chunk = f"{part} * {chunks} + warp + {stage.turn * TILE_WARPS}"
        start = f"uint32(({chunk}) * {layout.record_bytes})"
        source = f"at({self.scope.pointers[anchor.inputs[1].name]}, {start})"
        self.ring.copy(ahead, source, layout.record_bytes, live)

    def _tile_of_matrix(self, stage: Share, tile: str) -> str:
        """Which tile of the matrix a tile of units has there."""
        if not self.halves:
            return tile
        assert self.segment.rope is not None
        half = int(self.segment.rope["head_dim"]) // 2 // TILE_ROWS
        head = f"uint32({tile} // uint32({half}))"
        return f"uint32({tile} + ({head} + {stage.part}) * {half})"

    def _last(self, anchor: Node) -> str:
        """The matrix's last tile: blocks behind it do again what its block does."""
        if isinstance(self.limit, str):
            rows = f"uint32({self.limit} * {2 if self.segment.rope else 1})"
            return f"uint32({rows} // uint32({TILE_ROWS}) - uint32(1))"
        return f"uint32({anchor.inputs[1].shape[0] // TILE_ROWS - 1})"

    def fetch_activations(self) -> None:
        """See `Matvecs.fetch_activations`: a pair has no registers to keep them until the end."""
        if not self.paired:
            super().fetch_activations()

    # --- behind the barrier ----------------------------------------------------------------------

    def _rest(self) -> None:
        w, steps = self.scope.w, self.steps
        if self.paired:
            w.line("cluster_wait()", "both mailboxes are open")
        self.products.of_vectors()
        with w.block(f"for step in range({steps}):") if steps > 1 else nullcontext():
            if steps > 1:
                w.line(f"begin = uint32(tile + uint32(step) * {self.at_once})")
                self._begin_unit("begin")
            else:
                w.line("begin = tile")
            self._tiles()
            if self.paired:
                w.line("warp_barrier()", "what follows would take registers earlier")
                w.line(f"thread = below(thread_again(), {self.scope.geometry.threads})")
                self._begin_unit("tile")
                self.elements.fetch_activations()
            w.line("barrier()")
            lanes = -(-self.at_once * self.each // WARP) * WARP
            with w.block(f"if some(thread < uint32({lanes})):"):
                self._finish()
            if steps > 1:
                w.line("barrier()")

    def _tiles(self) -> None:
        """The warp's sums of `at_once` tiles of units."""
        w = self.scope.w
        if not self.ring.refills:
            self.ring.arrive_all()
        with w.block(f"for k in range({self.at_once}):") if self.at_once > 1 else nullcontext():
            k = "uint32(k)" if self.at_once > 1 else "uint32(0)"
            w.line(f"now = uint32(begin + {k})")
            if self.paired:
                w.line(f"its_now = uint32(its_tile + {k})")
            for at, stage in enumerate(self.stages):
                if stage.turn == 0:
                    self.products.begin(stage.anchor)
                self._stage(at, stage)
                if self._ends(at):
                    self._store_sums(stage)

    def _ends(self, at: int) -> bool:
        return at + 1 == len(self.stages) or self.stages[at + 1].turn == 0

    def _stage(self, at: int, stage: Share) -> None:
        """Read a record, ask for the one that takes its place, and multiply."""
        w, anchor = self.scope.w, stage.anchor
        half = stage.half if isinstance(stage.half, int) else 0  # it is all that the block has
        first = half * self._chunks(anchor) + stage.turn * TILE_WARPS
        w.line(f"chunk = uint32(warp + {first})" if first else "chunk = warp")
        ahead = self.ahead if at == 0 else range(0)
        if not ahead:
            if self.ring.refills:
                self.ring.arrive()
            self.products.read_scales(anchor)
        self.products.scale(anchor)
        for span in range(CHUNK):
            if span not in ahead:
                self.products.decode(anchor, span)
            self.products.multiply(anchor, span)
        if self.ring.refills:
            w.line("warp_barrier()")
            later, following = divmod(at + self.ring.depth, len(self.stages))
            stage = self.stages[following]
            live = f"(uint32(now + {later}) < uint32(tile + {self.at_once * self.steps}))"
            tile = f"uint32({'its_now' if stage.sent else 'now'} + {later})"
            self._copy(stage, tile, 0, live)
        self.ring.turn()

    def beside_reads(self) -> None:
        """The first levels."""
        if not self.ahead:
            return
        w, anchor = self.scope.w, self.stages[0].anchor
        self.ring.arrive()
        self.products.read_scales(anchor)
        for span in self.ahead:
            self.products.decode(anchor, span)
        w.line(f"settle({' ^ '.join(self.products.words(anchor, self.ahead))})")

    def _place(self, anchor: Node, part: int | str, tile: str) -> str:
        """Where a tile's sums are."""
        count, at = len(self.anchors), self.anchors.index(anchor)
        number = f"({tile} * {self.parts} + {part})" if self.parts > 1 else tile
        if count > 1:
            number = f"({number} * {count} + {at})"
        return f"{number} * {self._tile_bytes}"

    def _store_sums(self, stage: Share) -> None:
        """The warp's sums of rows, written by one lane of each row."""
        w = self.scope.w
        self.products.end(stage.anchor)
        self._find_partials()
        tile = "uint32(k)" if self.at_once > 1 else "uint32(0)"
        place = f"{self._place(stage.anchor, stage.part, tile)} + {stage.half} * {PARTIALS}"
        w.line(f"where = uint32(partials + {place} + row * {ROW} + warp * 4)")
        if stage.sent:
            w.line("its_rank = uint32(half ^ uint32(1))")
            w.line("counted = map_shared(mailbox, its_rank)")
        for row, more in zip(ROWS, (0, 8 * ROW), strict=True):
            here = f"uint32(where + {more})"
            if stage.sent:
                to = f"map_shared({here}, its_rank)"
                w.line(f"send_f32_if({to}, {row}, counted, t == uint32(0))")
            else:
                w.line(f"store_shared_f32_if({here}, {row}, t == uint32(0))")

    def _find_partials(self) -> None:
        """Where the sums are, from where the ring is: one register for both."""
        before = f"left - warp * {self.ring.nbytes} - {self._partial_bytes}"
        self.scope.w.line(f"partials = uint32(slot - {before})")

    def _finish(self) -> None:
        """The warps' sums added up by one thread a unit, and its element-wise work."""
        w = self.scope.w
        self.elements.fetch()
        for squares in self.prologue.late_of(self.anchors):
            w.line(squares.made_of(f"warp_sum({squares.of_lane})"))
        if self.paired:
            w.line("mailbox_wait(mailbox)")
        self._find_partials()
        w.line(f"inside = min_u32(thread, uint32({self.at_once * self.each - 1}))")
        sums = {}
        for anchor in self.anchors:
            for n, i in enumerate(self.indices.names):
                name = sums[anchor.name, i] = f"sum_{identifier(anchor.inputs[1])}_{i}"
                place = self._sum_place(anchor, n)
                places = [
                    f"uint32({place} + {h * PARTIALS})" for h in range(self._column_parts(anchor))
                ]
                parts = [f"sum_of_warps(partials, {given})" for given in places]
                w.line(f"{name} = {' + '.join(parts)}")
                if factor := self.prologue.factor(anchor):
                    w.line(f"{name} = {name} * {factor}")
        self.elements.compute(sums)

    def _sum_place(self, anchor: Node, n: int) -> str:
        """Where the sums of this thread's unit are; of a rotated pair, of its n-th element."""
        row = "inside"
        if self.segment.rope and not self.halves:
            row = f"uint32(inside * 2 + {n})"
        tile = f"uint32({row} >> uint32(4))"
        return f"uint32({self._place(anchor, n, tile)} + ({row} & uint32(15)) * {ROW})"
