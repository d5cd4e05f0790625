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
row of the caches. A block that starts early reads the older rows, waits, and then reads these two,
or makes them (see `head_prologue`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.attention_cached import ROWS, ZEROS, CachedRows
from fusec.codegen.cuda.head_prologue import HeadPrologue
from fusec.codegen.cuda.shape import CHUNK, CHUNKS, SPAN, WARP
from fusec.codegen.cuda.sources import Shared
from fusec.codegen.cuda.stages import Stage
from fusec.errors import FusecError
from fusec.ir.graph import Node

HELD = 64  # registers that a lane may fill with keys and values
MOST_ELEMENTS = 512  # of a head: a thread each
BESIDES = 20  # registers for all else
SHARED_BY_TWO = 64  # registers that an SM, which has 65,536, has for each of 32 warps


class Attention(CachedRows):
    """One segment of role 'heads'.

    `alone`: there is nothing else in the kernel, so that older rows are read in front of its wait.
    `made`: what makes its head's query and newest rows in the same kernel, `raw`: of which vectors
    (see `HeadPrologue`). `held`: registers that keys and values may fill before the query is known.
    """

    def __init__(
        self,
        alike: Alike,
        node: Node,
        alone: bool,
        made: Sequence[Node],
        held: int = HELD,
        raw: Mapping[str, Shared] = MappingProxyType({}),
    ) -> None:
        _check(node)
        super().__init__(alike, node, held, HeadPrologue(alike, node, made, raw))
        scope = alike.scope
        self.sinks = next((v for v in node.weights if len(v.shape) == 1), None)
        self.split = node.get("spans", 0) != 0
        self.stride = self.value_pieces.parts * 8 * self.value_pieces.piece  # of a chunk's result
        if scope.overlaps and self.split and not node.matrices:
            self._leave_room(SHARED_BY_TWO)
            scope.holds = False
        # else the launch in front has appended the other rows of the step, which may be older ones
        one_new = bool(self.own.fresh) or not scope.rows
        self.early = alone and scope.overlaps and self.split and self.held and one_new
        self.maxima = scope.shared("maxima", 4 * CHUNKS)
        self.sums = scope.shared("sums", 4 * CHUNKS)
        self.outs = scope.shared("outs", 4 * CHUNKS * self.stride)

    def _leave_room(self, most: int, others: int = 0) -> None:
        """At most so many registers, if that is enough for keys, values, `others` and all else.

        A block of the launch behind that finds no room loads its weights when this one has ended.
        """
        if self.rows_held + others + BESIDES <= most:
            self.scope.registers = most

    def emit(self) -> None:
        """Everything: what needs no query in front of the wait."""
        w, first = self.w, self.alike.size[1]
        with self.alike.at(Stage.LOAD):
            w.line(f"unit = uint32(block - {first})" if first != "0" else "unit = block")
            w.line(f"n = uint32(load_u32({self.scope.pointers[self.pos.name]}) + uint32(1))")
            if self.window:
                w.line(f"oldest = first_seen(n, {self.window})")
                w.line(f"first_span = uint32(oldest // uint32({SPAN}))")
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
                self._load_own()
                self._extent_of_span()
                with w.block(mine):
                    self._older_rows()
        with self.alike.at(Stage.MAKE), w.block(live):
            self._make_own("span")
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
        self._load_own()
        self._make_own()
        w.line("state = (float32(-(1 << 30)), float32(0), float32(0))", "of no span")
        count = quotient("n", SPAN)
        if self.window:
            w.line(f"spans = uint32({count} - first_span)")
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

    def _load_own(self) -> None:
        """The loads of what the block makes of its head first."""
        if self.own.chains:
            self.own.load()

    def _make_own(self, span: str = "") -> None:
        """What it makes. Of the blocks of a head of the caches, one writes: with the last span."""
        if not self.own.chains:
            return
        writes = f"head == uint32(kv_head * {self.heads // self.kv_heads})"
        if span:
            writes = f"({writes}) & (uint32(uint32(n - uint32(1)) // uint32({SPAN})) == {span})"
        self.own.emit(writes)

    def _plus_first(self, part: str) -> str:
        """The number of a span, of which the one with the first position seen is part 0."""
        if not self.window:
            return f"uint32({part})"
        return f"uint32(uint32({part}) + first_span)"

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
        self._offsets()

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
        self._find_page()
        if not self.early:
            return
        if not self.own.fresh:  # the first token has no older row: it reads any, and again
            self.w.line("last = uint32(max_u32(n, uint32(2)) - uint32(2))", "but for the newest")
        self._keys_and_values(early=True)

    def _chunk(self) -> None:
        """One warp's 16 positions; group g has positions g, g + 4, ... of them."""
        w, x = self.w, self.value_pieces
        w.line("last = uint32(n - uint32(1))")
        for cache, query in self.products if self.held else ():
            for c in range(self._pieces(cache).parts):
                self._query(cache, query, c)
        if self.early and not self.own.fresh:
            with w.block(f"if some(last < uint32(start + uint32({CHUNK}))):"):
                self._keys_and_values()
        elif self.held and not self.early:
            self._keys_and_values()
        elif not self.held:
            self._rows()
        if self.held:
            self._renew(*((x, c) for x in "kv" for c in range(self._pieces(x).parts)))
        self._products()
        self._weights()
        if not self.held:
            w.line("group = uint32(uint32(thread_again() & uint32(31)) >> uint32(3))")
            w.line("here = uint32(start + group)", "anew: no register has the rows meanwhile")
            self._rows()
        for c, lanes in self._parts(x):
            if not self.held:
                w.line("warp_barrier()", "no more loads at once than there are registers")
                self._read(("v", c))
                self._renew(("v", c))
            for t in range(ROWS):
                before = "o" if t else ZEROS[x.piece]
                w.line(f"o = axpy_{x.piece}({before}, p{t}, {self._floats('v', t, c)})")
            place = f"(warp * {self.stride} + (member + {lanes}) * {x.piece}) * 4"
            w.line(f"store_{x.piece}(uint32({self.outs} + {place}), o, lane)")

    def _weights(self) -> None:
        """The positions' weights p0, p1, ...; their exponent and sum go to shared memory."""
        w = self.w
        scores = ", ".join(f"d{t}[0] + d{t}[1]" for t in range(ROWS))
        w.line(f"score = {scaled(self.node, f'score_of_lane(({scores}), lane)')}")
        w.line("position = uint32(here + uint32(member >> uint32(1)) * 4)")
        seen = "(position >= oldest) & (position <= last)" if self.window else "position <= last"
        w.line(f"p, top = weigh(score, {seen})")
        for t in range(ROWS):
            w.line(f"p{t} = weight_of(p, lane, {t})")
        total = " + ".join(f"p{t}" for t in range(ROWS))
        w.line(f"store_weights(top, {total}, {self.maxima}, {self.sums}, warp, lane)")


def _check(node: Node) -> None:
    """Refuse spans and heads that no block makes."""
    if node.get("spans", 0) and node["span"] != SPAN:
        raise FusecError(f"{node.name}: expected spans of {SPAN} positions, found {node['span']}")
    for cache in node.inputs[1:3]:
        if (size := cache.shape[-1]) % 2 or size > MOST_ELEMENTS:
            raise FusecError(
                f"{node.name}: expected heads of an even number of elements up to "
                f"{MOST_ELEMENTS}, found {size}"
            )


def scaled(node: Node, product: str) -> str:
    """A score, of the product of query and key."""
    score = f"{product} * float32({node['scale']!r})"
    return f"softcap({score}, float32({node['cap']!r}))" if node["cap"] else score


def quotient(value: str, divisor: int) -> str:
    """value / divisor, rounded up."""
    return f"uint32(uint32({value} + uint32({divisor - 1})) // uint32({divisor}))"
