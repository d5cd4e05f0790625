"""Attention of one head by one block: chunks of 32 positions, one warp each, folded in order.

Eight lanes share a key's row, so a warp reads four rows at once and lane i of each eight ends with
the score of the i-th. A chunk leaves its largest score, its sum of weights and its weighted sum of
values in shared memory; when the room there is full, or all chunks are done, they are folded into
the result (Milakov & Gimelshein 2018), one thread an element.
"""

from __future__ import annotations

from fusec.codegen.cuda.scope import Scope
from fusec.ir.graph import Node
from fusec.ir.region import Segment

ROWS = 8  # rows that a group of eight lanes takes in turn
ROOM = 36 << 10  # bytes of shared memory for chunks
HELD = 64  # registers that values may fill before the scores are known
ZEROS = {2: "(float32(0), float32(0))", 4: "(float32(0), float32(0), float32(0), float32(0))"}
ZEROS[8] = f"({ZEROS[4]}, {ZEROS[4]})"


class Attention:
    """One segment of role 'heads'. A lane holds `parts` pieces of `piece` elements of a row."""

    def __init__(self, scope: Scope, node: Node) -> None:
        self.scope, self.w, self.node = scope, scope.w, node
        self.q, self.k, self.v, self.pos = node.inputs
        self.heads, self.kv_heads = int(node["heads"]), int(node["kv_heads"])
        self.head_dim = node.outputs[0].shape[-1] // self.heads
        self.piece = next(n for n in (8, 4, 2) if self.head_dim % n == 0)
        self.pieces = self.head_dim // self.piece
        self.parts = -(-self.pieces // 8)
        self.stride = self.parts * 8 * self.piece  # floats of a chunk's result
        self.warps = scope.geometry.warps
        words = self.piece if self.v.dtype == "f32" else self.piece // 2
        self.held = self.parts * ROWS * words <= HELD
        room = ROOM // (4 * (self.stride + 2))
        self.slots = min(32, room) // self.warps * self.warps
        self.maxima = scope.shared("maxima", 4 * self.slots)
        self.sums = scope.shared("sums", 4 * self.slots)
        self.outs = scope.shared("outs", 4 * self.slots * self.stride)

    def emit(self, first: str) -> None:
        """The head of block `first` + head."""
        w, slots = self.w, self.slots
        self._place(first)
        self._query()
        w.line(f"n = uint32(load_u32({self.scope.pointers[self.pos.name]}) + uint32(1))")
        w.line("chunks = uint32((n + uint32(31)) >> uint32(5))")
        w.line("state = (float32(-3.0e38), float32(0), float32(0))")
        w.line(f"element = min_u32(thread, uint32({self.head_dim - 1}))")
        with w.block(f"for turn in range(uniform({_quotient('chunks', slots)})):"):
            w.line(f"count = min_u32(uint32(chunks - turn * {slots}), uint32({slots}))")
            with w.block(f"for step in range(uniform({_quotient('count', self.warps)})):"):
                w.line(f"slot = uint32(step * {self.warps} + warp)")
                with w.block("if some(slot < count):"):
                    self._chunk()
            w.line("barrier()")
            with w.block(f"if some(thread < uint32({-(-self.head_dim // 32) * 32})):"):
                given = f"{self.maxima}, {self.sums}, {self.outs}, {self.stride}"
                w.line(f"state = combine(state, {given}, uniform(count), element, lane)")
            w.line("barrier()")
        out = f"{self.scope.pointers[self.node.name]}, uint32(head * {self.head_dim} + element)"
        w.line(f"store_quotient({out}, state, thread < uint32({self.head_dim}))")

    def _place(self, first: str) -> None:
        """Which head this block makes, and which elements of a row this lane has."""
        w = self.w
        w.line(f"head = uint32(block - {first})" if first != "0" else "head = block")
        w.line(f"kv_head = uint32(head // uint32({self.heads // self.kv_heads}))")
        w.line("group, member = uint32(lane >> uint32(3)), uint32(lane & uint32(7))")
        for c in range(self.parts):
            w.line(f"offset{c} = uint32((member + uint32({8 * c})) * {self.piece})")
            if self._ragged(c):
                w.line(f"inside{c} = offset{c} < uint32({self.head_dim})")
                w.line(f"offset{c} = select_u32(inside{c}, offset{c}, uint32(0))")

    def _ragged(self, c: int) -> bool:
        """Whether some lanes have nothing of part c."""
        return 8 * (c + 1) > self.pieces

    def _query(self) -> None:
        """This lane's pieces of the query, zeros where it has none."""
        for c in range(self.parts):
            where = (
                f"{self.scope.pointers[self.q.name]}, uint32(head * {self.head_dim} + offset{c})"
            )
            loaded = f"load_f32_{self.piece}({where})"
            if self._ragged(c):
                loaded = f"masked_{self.piece}(inside{c}, {loaded})"
            self.w.line(f"q{c} = {loaded}")

    def _read(self, cache: str, c: int) -> None:
        """Part c of the eight rows."""
        value = {"k": self.k, "v": self.v}[cache]
        pointer = self.scope.pointers[value.name]
        for t in range(ROWS):
            where = f"{pointer}, uint32(row{t} + offset{c})"
            self.w.line(f"{cache}{t}_{c} = load_{value.dtype}_{self.piece}({where})")

    def _floats(self, cache: str, t: int, c: int) -> str:
        """A piece as floats."""
        name = f"{cache}{t}_{c}"
        return f"halves_{self.piece}({name})" if self.k.dtype == "f16" else name

    def _chunk(self) -> None:
        """One warp's 32 positions; group g has positions g, g + 4, ... of them."""
        w, parts = self.w, range(self.parts)
        w.line(f"here = uint32((turn * {self.slots} + slot) * 32 + group)")
        for t in range(ROWS):
            position = f"min_u32(uint32(here + uint32({4 * t})), uint32(n - uint32(1)))"
            w.line(f"row{t} = uint32(({position} * {self.kv_heads} + kv_head) * {self.head_dim})")
        for cache in "kv" if self.held else "":
            for c in parts:
                self._read(cache, c)
        for c in parts:
            if not self.held:
                self._read("k", c)
            for t in range(ROWS):
                before = f"d{t}" if c else ZEROS[2]
                w.line(f"d{t} = dot_{self.piece}({before}, {self._floats('k', t, c)}, q{c})")
        scores = ", ".join(f"d{t}[0] + d{t}[1]" for t in range(ROWS))
        w.line(f"score = score_of_lane(({scores}), lane) * float32({self.node['scale']!r})")
        w.line("live = (slot < count) & (uint32(here + member * 4) < n)")
        w.line(f"p = softmax_chunk(score, live, {self.maxima}, {self.sums}, slot, lane)")
        for t in range(ROWS):
            w.line(f"p{t} = weight_of(p, lane, {t})")
        for c in parts:
            if not self.held:
                self._read("v", c)
            for t in range(ROWS):
                before = "o" if t else ZEROS[self.piece]
                w.line(f"o = axpy_{self.piece}({before}, p{t}, {self._floats('v', t, c)})")
            place = f"(slot * {self.stride} + (member + {8 * c}) * {self.piece}) * 4"
            w.line(f"store_{self.piece}(uint32({self.outs} + {place}), o, lane)")


def emit_attention(scope: Scope, segment: Segment, first: str) -> None:
    """Emit a segment of role 'heads'."""
    Attention(scope, segment.nodes[0]).emit(first)


def _quotient(value: str, divisor: int) -> str:
    """value / divisor, rounded up."""
    return f"uint32(({value} + uint32({divisor - 1})) // uint32({divisor}))"
