"""Attention by blocks of 16 warps: a span of 256 positions of one head, a chunk of 16 a warp.

Eight lanes share a key's row, so a warp reads four rows at once; of each eight, lanes 2t and 2t + 1
end with the score of row t. For a chunk a warp leaves its largest exponent, its sum of weights and
its weighted sum of values in shared memory, where one thread for each element combines the chunks.

`attention` goes over all spans in one thread block a head. `attention_spans` gives each span a
block of its own and keeps the results for `attention_combine` (split-KV); the sums and their order
are the same. `attention_project` has a block for each span too (see the module of that name).

With a window, spans begin with that of the first position seen. Positions in front of it weigh
nothing, and stand for the first; chunks of nothing else change no sum.

A block needs only two things that the launch right in front of it made: the query, and the newest
row of the caches. A block that starts early reads the older rows, waits, and then reads these two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.attention_pieces import Pieces
from fusec.codegen.cuda.elements import row_of
from fusec.codegen.cuda.shape import CHUNK, CHUNKS, SPAN, WARP
from fusec.codegen.cuda.stages import Stage
from fusec.errors import FusecError
from fusec.ir.graph import Node, Value
from fusec.ir.op_attention import query_of_values

ROWS = CHUNK // 4  # rows that a group of eight lanes takes
HELD = 64  # registers that a lane may fill with keys and values
MOST_ELEMENTS = 512  # of a head: a thread each
BESIDES = 20  # registers for all else
SHARED_BY_TWO = 64  # registers that an SM, which has 65,536, has for each of 32 warps
ZEROS = {2: "(float32(0), float32(0))", 4: "(float32(0), float32(0), float32(0), float32(0))"}
ZEROS[8] = f"({ZEROS[4]}, {ZEROS[4]})"


class Attention:
    """One segment of role 'heads'.

    Scores are the sum of `products`: rows of a cache ("k", or also "v") times a query.
    `alone`: there is nothing else in the kernel, so that older rows are read in front of its wait.
    `held`: registers that keys and values may fill before the query is known.
    """

    def __init__(self, alike: Alike, node: Node, alone: bool, held: int = HELD) -> None:
        self.alike, self.scope = alike, alike.scope
        self.w, self.node, scope = alike.scope.w, node, alike.scope
        self.q, self.k, self.v, self.pos = node.inputs[:4]
        self.heads, self.kv_heads = int(node["heads"]), int(node["kv_heads"])
        self.head_dim = self.v.shape[-1]
        self.window = int(node["window"])
        self.sinks = next((v for v in node.weights if len(v.shape) == 1), None)
        self.split = node.get("spans", 0) != 0
        self._check()
        self.value_pieces = self.key_pieces = Pieces(self.head_dim)
        self.products = [("k", self.q)]
        if (of_values := query_of_values(node)) is not None:
            self.key_pieces = Pieces(self.k.shape[-1], "k")
            self.products.append(("v", of_values))
        self.stride = self.value_pieces.parts * 8 * self.value_pieces.piece  # of a chunk's result
        words = sum(x.parts * x.piece for x in (self.key_pieces, self.value_pieces))
        self.rows_held = words * ROWS // (1 if self.v.dtype == "f32" else 2)
        self.held = self.rows_held <= held
        self.looped = not self.held and len(self.products) > 1  # registers would have addresses
        if scope.overlaps and self.split and not node.matrices:
            self._leave_room(SHARED_BY_TWO)
            scope.holds = False
        # the launch in front has appended the other rows of the step, which may be older ones
        self.early = alone and scope.overlaps and self.split and self.held and not scope.rows
        self.maxima = scope.shared("maxima", 4 * CHUNKS)
        self.sums = scope.shared("sums", 4 * CHUNKS)
        self.outs = scope.shared("outs", 4 * CHUNKS * self.stride)

    def _leave_room(self, most: int, others: int = 0) -> None:
        """At most so many registers, if that is enough for keys, values, `others` and all else.

        A block of the launch behind that finds no room loads its weights when this one has ended.
        """
        if self.rows_held + others + BESIDES <= most:
            self.scope.registers = most

    def _check(self) -> None:
        if self.split and self.node["span"] != SPAN:
            raise FusecError(
                f"{self.node.name}: expected spans of {SPAN} positions, found {self.node['span']}"
            )
        for size in (self.k.shape[-1], self.head_dim):
            if size % 2 or size > MOST_ELEMENTS:
                raise FusecError(
                    f"{self.node.name}: expected heads of an even number of elements up to "
                    f"{MOST_ELEMENTS}, found {size}"
                )

    def emit(self) -> None:
        """Everything: what needs no query in front of the wait."""
        w, first = self.w, self.alike.size[1]
        with self.alike.at(Stage.LOAD):
            w.line(f"unit = uint32(block - {first})" if first != "0" else "unit = block")
            w.line(f"n = uint32(load_u32({self.scope.pointers[self.pos.name]}) + uint32(1))")
            if self.window:
                w.line(f"first = uint32(max_u32(n, uint32({self.window})) - uint32({self.window}))")
        if self.split:
            self._span_of_block()
        else:
            with self.alike.at(Stage.COMPUTE, apart=True):
                self._all_spans()

    def _span_of_block(self) -> None:
        """A block's one span, if it begins in front of the position."""
        w = self.w
        live, mine = f"if some(uint32(span * {SPAN}) < n):", "if some(warp < uint32(turns * 4)):"
        with self.alike.at(Stage.LOAD):
            w.line(f"part = uint32(unit // uint32({self.heads}))")
            w.line(f"head = uint32(unit - part * {self.heads})")
            w.line(f"span = {self._plus_first('part')}")
            with w.block(live):
                self._place()
                self._extent_of_span()
                with w.block(mine):
                    self._older_rows()
        with self.alike.at(Stage.MAKE), w.block(live):
            with w.block(mine):
                self._chunk()
            w.line("barrier()")
        with self.alike.at(Stage.COMPUTE, apart=True), w.block(live), self._folded():
            where = ", ".join(self.scope.pointers[v.name] for v in self.node.outputs)
            place = f"{where}, part, head, {self.heads}, element, {self.head_dim}"
            w.line(f"store_span({place}, found, thread)")

    def _all_spans(self) -> None:
        """A head's spans, one after the other."""
        w = self.w
        w.line("head = unit")
        self._place()
        w.line("state = (float32(-(1 << 30)), float32(0), float32(0))", "of no span")
        count = quotient("n", SPAN)
        if self.window:
            w.line(f"spans = uint32({count} - uint32(first // uint32({SPAN})))")
        with w.block(f"for part in range(uniform({'spans' if self.window else count})):"):
            w.line(f"span = {self._plus_first('part')}")
            self._extent_of_span()
            with w.block("if some(warp < uint32(turns * 4)):"):
                self._older_rows()
                self._chunk()
            w.line("barrier()")
            with self._folded():
                w.line("state = fold_span(state, found)")
            w.line("barrier()")
        self._sink("fold_sink")
        out = f"{self.scope.pointers[self.node.name]}, uint32(head * {self.head_dim} + element)"
        w.line(f"store_result({out}, state, thread < uint32({self.head_dim}))")

    def _plus_first(self, part: str) -> str:
        """The number of a span, of which the one with the first position seen is part 0."""
        if not self.window:
            return f"uint32({part})"
        return f"uint32(uint32({part}) + uint32(first // uint32({SPAN})))"

    def _sink(self, fold: str) -> None:
        """The head's logit without a value takes part in `state`, if it has one."""
        if self.sinks is not None:
            sink = f"load_f32(at({self.scope.pointers[self.sinks.name]}, head))"
            self.w.line(f"state = {fold}(state, {sink})")

    def _place(self) -> None:
        """Which elements of a row this lane has."""
        w = self.w
        w.line(f"kv_head = uint32(head // uint32({self.heads // self.kv_heads}))")
        w.line("group, member = uint32(lane >> uint32(3)), uint32(lane & uint32(7))")
        w.line(f"element = min_u32(thread, uint32({self.head_dim - 1}))")
        for x in dict.fromkeys((self.key_pieces, self.value_pieces)):
            for c in range(0 if self.looped else x.parts):
                self._offset(x, c, f"uint32({8 * c})")

    def _offset(self, x: Pieces, c: int, lanes: str) -> None:
        """Where this lane's part c of a row begins, so many lanes behind its first."""
        offset, inside = f"offset{x.tag}{c}", f"inside{x.tag}{c}"
        self.w.line(f"{offset} = uint32((member + {lanes}) * {x.piece})")
        if self._is_ragged(x, c):
            self.w.line(f"{inside} = {offset} < uint32({x.size})")
            self.w.line(f"{offset} = select_u32({inside}, {offset}, uint32(0))")

    def _is_ragged(self, x: Pieces, c: int) -> bool:
        """Whether some lanes have nothing of part c, or of the last one if a loop has them all."""
        return x.is_ragged(x.parts - 1 if self.looped else c)

    def _parts(self, x: Pieces) -> Iterator[tuple[int, str]]:
        """For each part of a row: the number of its variables, and how many lanes it is behind."""
        if not self.looped:
            yield from ((c, str(8 * c)) for c in range(x.parts))
            return
        with self.w.block(f"for turn in range({x.parts}):"):
            self._offset(x, 0, "turn * uint32(8)")
            yield 0, "turn * 8"

    def _pieces(self, cache: str) -> Pieces:
        """Those of a cache's rows."""
        return {"k": self.key_pieces, "v": self.value_pieces}[cache]

    def _extent_of_span(self) -> None:
        """Where this warp's chunk of a span begins, and how many turns of four chunks there are.

        Chunks are folded four at a time, so warps behind the last chunk make zeros up to there.
        """
        w = self.w
        w.line(f"start = uint32(span * {SPAN} + warp * {CHUNK})", "of this warp's chunk")
        chunks = quotient(f"(n - span * {SPAN})", CHUNK)
        w.line(f"turns = {quotient(f'min_u32({chunks}, uint32({CHUNKS}))', 4)}")

    @contextmanager
    def _folded(self) -> Iterator[None]:
        """A thread for each element of the head: `found` is the state of the span's chunks."""
        w = self.w
        with w.block(f"if some(thread < uint32({-(-self.head_dim // WARP) * WARP})):"):
            given = f"{self.maxima}, {self.sums}, {self.outs}, {self.stride}"
            w.line(f"found = fold_chunks({given}, uniform(turns), element, lane)")
            yield

    # --- one chunk -------------------------------------------------------------------------------

    def _older_rows(self) -> None:
        """Loads of a chunk's keys and values that do not wait: all but the newest row."""
        self.w.line("here = uint32(start + group)")
        if self.early:  # the first token has no older row: it reads whatever is there, and again
            self.w.line("last = uint32(max_u32(n, uint32(2)) - uint32(2))", "but for the newest")
            self._keys_and_values()

    def _chunk(self) -> None:
        """One warp's 16 positions; group g has positions g, g + 4, ... of them."""
        w, x = self.w, self.value_pieces
        w.line("last = uint32(n - uint32(1))")
        for cache, query in self.products if self.held else ():
            for c in range(self._pieces(cache).parts):
                self._query(cache, query, c)
        if self.early:
            with w.block(f"if some(last < uint32(start + uint32({CHUNK}))):"):
                self._keys_and_values()
        elif self.held:
            self._keys_and_values()
        else:
            self._rows()
        self._products()
        self._weights()
        if not self.held:
            w.line("group = uint32(uint32(thread_again() & uint32(31)) >> uint32(3))")
            w.line("here = uint32(start + group)", "anew: no register has the rows meanwhile")
            self._rows()
        for c, lanes in self._parts(x):
            if not self.held:
                w.line("warp_barrier()", "no more loads at once than there are registers")
                self._read("v", c)
            for t in range(ROWS):
                before = "o" if t else ZEROS[x.piece]
                w.line(f"o = axpy_{x.piece}({before}, p{t}, {self._floats('v', t, c)})")
            place = f"(warp * {self.stride} + (member + {lanes}) * {x.piece}) * 4"
            w.line(f"store_{x.piece}(uint32({self.outs} + {place}), o, lane)")

    def _products(self) -> None:
        """The group's rows times the queries, in two sums each."""
        w = self.w
        for t in range(ROWS):
            w.line(f"d{t} = {ZEROS[2]}")
        for cache, query in self.products:
            x = self._pieces(cache)
            for c, _ in self._parts(x):
                if not self.held:
                    w.line("warp_barrier()", "no more loads at once than there are registers")
                    self._query(cache, query, c)
                    self._read(cache, c)
                for t in range(ROWS):
                    floats = self._floats(cache, t, c)
                    w.line(f"d{t} = dot_{x.piece}(d{t}, {floats}, q{x.tag}{c})")

    def _query(self, cache: str, query: Value, c: int) -> None:
        """Part c of a query, zeros where this lane has none."""
        x, pointer = self._pieces(cache), self.scope.pointers[query.name]
        place = f"uint32(head * {x.size} + offset{x.tag}{c})"
        loaded = f"load_f32_{x.piece}({pointer}, {place})"
        if self._is_ragged(x, c):
            loaded = f"masked_{x.piece}(inside{x.tag}{c}, {loaded})"
        self.w.line(f"q{x.tag}{c} = {loaded}")

    def _rows(self) -> None:
        """Where the group's rows begin; those behind `last` are `last`."""
        for t in range(ROWS):
            position = f"uint32(here + uint32({4 * t}))"
            if self.window:
                position = f"max_u32({position}, first)"
            position = row_of(self.node, f"min_u32({position}, last)")
            for x in dict.fromkeys((self.key_pieces, self.value_pieces)):
                row = f"({position} * {self.kv_heads} + kv_head) * {x.size}"
                self.w.line(f"row{x.tag}{t} = uint32({row})")

    def _keys_and_values(self) -> None:
        """The whole rows."""
        self._rows()
        for cache in "kv":
            for c in range(self._pieces(cache).parts):
                self._read(cache, c)

    def _read(self, cache: str, c: int) -> None:
        """Part c of the rows."""
        x, value = self._pieces(cache), {"k": self.k, "v": self.v}[cache]
        pointer = self.scope.pointers[value.name]
        for t in range(ROWS):
            where = f"{pointer}, uint32(row{x.tag}{t} + offset{x.tag}{c})"
            self.w.line(f"{cache}{t}_{c} = load_{value.dtype}_{x.piece}({where})")

    def _floats(self, cache: str, t: int, c: int) -> str:
        """A piece as floats."""
        name = f"{cache}{t}_{c}"
        return f"halves_{self._pieces(cache).piece}({name})" if self.k.dtype == "f16" else name

    def _weights(self) -> None:
        """The positions' weights p0, p1, ...; their exponent and sum go to shared memory."""
        w = self.w
        scores = ", ".join(f"d{t}[0] + d{t}[1]" for t in range(ROWS))
        w.line(f"score = {scaled(self.node, f'score_of_lane(({scores}), lane)')}")
        w.line("position = uint32(here + uint32(member >> uint32(1)) * 4)")
        seen = "(position >= first) & (position <= last)" if self.window else "position <= last"
        w.line(f"p, top = weigh(score, {seen})")
        for t in range(ROWS):
            w.line(f"p{t} = weight_of(p, lane, {t})")
        total = " + ".join(f"p{t}" for t in range(ROWS))
        w.line(f"store_weights(top, {total}, {self.maxima}, {self.sums}, warp, lane)")


def scaled(node: Node, product: str) -> str:
    """A score, of the product of query and key."""
    score = f"{product} * float32({node['scale']!r})"
    return f"softcap({score}, float32({node['cap']!r}))" if node["cap"] else score


def quotient(value: str, divisor: int) -> str:
    """value / divisor, rounded up."""
    return f"uint32(uint32({value} + uint32({divisor - 1})) // uint32({divisor}))"
