"""Attention and its output projection in one kernel: a thread block for each span of each head.

The blocks of a head are a cluster. Each sums up its span, as `attention_spans` does, and sends the
sums to all blocks of the cluster through their shared memory. Then every block combines all spans
in order and multiplies the head's attention by its share of the rows of the head's columns (see
`projection`). A block whose span lies behind the position does everything but attend. While the
context is still within the first span, all blocks attend to it, and nothing is sent.

What is sent is counted where it arrives, by an mbarrier (a mailbox here), which needs no fence,
unlike a barrier of the cluster. A block ends only when all spans have arrived in it, so nothing is
sent to a block that has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.attention import Attention, quotient
from fusec.codegen.cuda.columns import BLOCK
from fusec.codegen.cuda.head_rows import HeadRows
from fusec.codegen.cuda.projection import Projection
from fusec.codegen.cuda.scope import PAGES
from fusec.codegen.cuda.shape import CHUNK, SPAN, WARP
from fusec.codegen.cuda.stages import Stage
from fusec.errors import FusecError
from fusec.ir.graph import Node
from fusec.ir.pages import PAGE

HELD = 80  # registers that a lane may fill with keys, values and the projection's weights
MOST = 80
"""Registers beside which an SM has room for 8 warps with 96 each, as the launch in front
has them.
"""
MOST_OF_ROWS = 64  # with which two blocks fit: those of two rows of a step


class ProjectedAttention(Attention):
    """One segment of role 'heads', alone in its kernel.

    `rows`: what makes the head's rows of QKV in the same kernel, behind its prologue (`head_rows`).
    """

    def __init__(
        self,
        alike: Alike,
        node: Node,
        alone: bool,
        made: Sequence[Node],
        rows: HeadRows | None = None,
    ) -> None:
        weight, spans, scope = node.inputs[4], int(node["spans"]), alike.scope
        branch = _branch(node, weight.shape[1])
        self.head_rows = rows
        self.projection = Projection(scope, weight, branch, spans, node.outputs[0])
        others, raw = self.projection.registers, {}
        if rows is not None:
            others, raw = others + rows.registers, rows.made
        super().__init__(alike, node, alone, made, HELD - self.projection.registers, raw)
        self._leave_room(MOST_OF_ROWS if scope.rows else MOST, others)
        self.spans, self.quads = spans, self.head_dim // 4
        if self.spans > 1:
            self.values = scope.shared("values", 4 * self.spans * self.head_dim)
            self.pairs = scope.shared("pairs", 8 * self.spans)
            self.mailbox = scope.exchange.mailbox("mailbox")

    def _span_of_block(self) -> None:
        """See `Attention._span_of_block`: blocks without a span take part in the product."""
        w, projection, scope = self.w, self.projection, self.alike.scope
        late = scope.resident and self.head_rows is not None  # a phase has no registers to spare
        attends = "if some(warp < uint32(turns * 4)):"
        with self.alike.at(Stage.LOAD):
            w.line(f"head = uint32(unit // uint32({self.spans}))")
            w.line(f"span = uint32(unit - head * {self.spans})")
            self._pages()
            if self.spans > 1:
                nbytes = self.spans * (4 * self.head_dim + 8)
                w.line(scope.exchange.open(self.mailbox, nbytes))
            w.line("part, rank = head, span")
            self._place()
            if self.head_rows is not None:
                self.head_rows.load()
            if self.spans > 1:
                scope.exchange.arrive(w)
            projection.load()
            self._extent()
            self._load_own()
            with w.block(attends):
                self._older_rows()
            if not late:
                projection.decode()
        with self.alike.at(Stage.MAKE if self.head_rows is None else Stage.COMPUTE):
            if self.head_rows is not None:
                self.head_rows.finish()
            self._make_own(self._plus_first("span"))
            with w.block(attends):
                self._chunk()
            w.line("barrier()")
        with self.alike.at(Stage.COMPUTE, apart=True):
            self._attended()
            w.line("barrier()")
            if late:
                projection.decode()
            projection.finish()

    def _pages(self) -> None:
        """Loads of the pages that the span may be, which need not wait for the position.

        Tables have an entry for every block of a cluster.
        """
        if self.window:
            return
        self.page = "first_page"
        self.w.line(f"first_page = page_row({PAGES}, uint32(0), {PAGE})")
        if self.spans > 1:
            self.page = "select_u32(alone, first_page, own_page)"
            self.w.line(f"own_page = page_row({PAGES}, uint32(span * {SPAN}), {PAGE})")

    def _extent(self) -> None:
        """How many positions the span has, if any, and where this warp's chunk of them begins."""
        w = self.w
        w.line(f"begin = uint32({self._plus_first('span')} * {SPAN})")
        if self.spans > 1:
            start, end = "uint32(0)", f"uint32({SPAN})"
            if self.window:
                w.line(f"start = uint32(first_span * {SPAN})")
                start, end = "start", f"uint32(start + uint32({SPAN}))"
            w.line(f"alone = n <= {end}", "the first span is the only one: all make it")
            w.line(f"begin = select_u32(alone, {start}, begin)")
        w.line("live = begin < n")
        w.line(f"left = select_u32(live, min_u32(uint32(n - begin), uint32({SPAN})), uint32(0))")
        w.line(f"turns = {quotient('left', 4 * CHUNK)}")
        w.line(f"start = uint32(begin + warp * {CHUNK})")

    def _attended(self) -> None:
        """The head's attention in fixed point, from the chunks of all spans."""
        w, quads = self.w, self.quads
        w.line(f"own = uint32(thread & uint32({quads - 1}))", "quad of the head")
        mine = f"if some(thread < uint32({-(-quads // WARP) * WARP})):"
        with w.block(mine):
            given = f"{self.maxima}, {self.sums}, {self.outs}, {self.stride}"
            w.line(f"state = fold_quads({given}, uniform(turns), own, lane)")
            if self.spans == 1:
                self._store_digits()
                return
            with w.block("if some(alone):"):
                self._store_digits()
            with w.block("else:"):
                self._exchange()

    def _exchange(self) -> None:
        """The same where there are several spans, of which this block has made one."""
        w, quads = self.w, self.quads
        exchange = self.alike.scope.exchange
        places = f"{self.values}, {self.pairs}, {self.mailbox}, {exchange.first}"
        given = f"{places}, span, {self.spans}, {quads}"
        if self.head_rows is None:
            exchange.opened(w)
        w.line(f"give_span({given}, {max(1, WARP // quads)}, own, state, live, thread)")
        w.line(exchange.wait(self.mailbox))
        last = f"uint32(uint32(n - uint32(1)) // uint32({SPAN}))"
        if self.window:
            last = f"uint32({last} - first_span)"
        w.line(f"last = uniform({last})")
        for s in range(self.spans):
            w.line(f"span{s} = taken({self.values}, {self.pairs}, {quads}, {s}, own)")
        w.line("state = span0")
        for s in range(1, self.spans):
            with w.block(f"if some(last >= uint32({s})):"):
                w.line(f"state = fold_four(state, span{s})")
        self._store_digits()

    def _store_digits(self) -> None:
        """A thread's quad of the head's attention in fixed point."""
        self._sink("fold_sink_four")
        inside = f"thread < uint32({self.quads})"
        self.projection.store_digits("divided(state)", "thread", inside)


def _branch(node: Node, columns: int) -> int:
    """Blocks of a head."""
    heads = int(node["heads"])
    branch, rest = divmod(columns // heads, BLOCK)
    if rest or branch & (branch - 1) or columns // BLOCK > WARP:
        raise FusecError(
            f"{node.name}: expected heads of {BLOCK} elements times a power of two, in rows of at "
            f"most {WARP * BLOCK}, found {heads} heads in {columns}"
        )
    return branch
