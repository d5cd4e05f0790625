"""`matvec_parts` for a few rows of a step at once, on the integer tensor cores.

A cluster makes the elements of one part's columns, and multiplies the next matrix by them, as the
kernel for one row does (`matvec_parts`), byte for byte. But its weights lie in shared memory, as
fragments that are multiplied by up to eight rows of the step (see `fragments`), so that more rows
cost little:

- Some warps each, a team, make the prologue of one row, with pointers to that row.
- All warps multiply the first matrices by the digits of all rows.
- A warp makes a row's elements of this block, 32: a block in fixed point, which it sends to all
  blocks of the cluster.
- All warps multiply the block's share of the next matrix by what the cluster made.

A row that is not there is the last one again; its partial sums are not written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fusec.codegen.cuda.columns import BLOCK, LANES, Columns
from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.fragments import Fragments
from fusec.codegen.cuda.panels import PIECE, PIECES, records_bytes
from fusec.codegen.cuda.parts_sizes import alike, panel_of, panel_of_parts
from fusec.codegen.cuda.row_prologues import ROW_PROLOGUES, Teams
from fusec.codegen.cuda.scope import Scope, at_row, rows_of, words
from fusec.codegen.cuda.shape import WARP, anchors
from fusec.codegen.cuda.stages import Stage
from fusec.ir.graph import Node, Value
from fusec.ir.op_fixed import OWN_RECORD
from fusec.ir.op_matvec import inverse_of
from fusec.ir.region import KernelShape
from fusec.writer import Writer


class PartsOfRows:
    """Emits the whole kernel, for `scope.rows` rows of the step. `way`: see `parts_sizes.ways`."""

    def __init__(self, scope: Scope, shape: KernelShape, way: str) -> None:
        self.scope, self.w, self.width = scope, scope.w, scope.rows
        assert shape.parts is not None
        self.clears = shape.clears
        (self.segment,), self.node = shape.segments, shape.parts
        self.limit = self.segment.size
        self.columns = Columns.of(self.node, BLOCK)
        self.threads = scope.geometry.threads
        self.rows = ROW_PROLOGUES[way](scope, shape, self.columns)
        self.prologue = self.rows.prologue
        self.firsts = [
            FirstMatrices(scope, nodes, f"first{k}", self.limit)
            for k, nodes in enumerate(alike(anchors(self.segment)))
        ]
        self.next = NextMatrix(scope, self.node, self.columns)
        self.received = scope.shared("received", records_bytes(self.columns.own))
        self.sent = scope.shared("sent", self.width * PIECES * PIECE)
        self.mailbox = scope.shared("mailbox", 8)
        self.indices = Indices(self.segment, "unit", self.limit)
        live = f"unit < uint32({self.limit})"
        self.elements = Elements(scope, self.segment, self.indices, live, self.prologue.source)

    def begin(self, w: Writer) -> None:
        """Emit what finds a team's row, and moves its pointers there."""
        w.line(f"first_row = uint32(block_index_y() * uint32({self.width}))")
        w.line("there_are = uniform(load_u32(rows))")
        with w.block("if first_row >= there_are:"):
            w.line("return")
        w.line(f"part = uint32(block // uint32({self.columns.ranks}))")
        w.line(f"rank = uint32(block - part * {self.columns.ranks})")
        w.line("worker = thread", "of the block; `thread` is that of what makes a row")
        self.rows.begin(w)
        w.line("its_row = min_u32(uint32(first_row + warp), uint32(there_are - 1))")
        for value in self._of_elements:
            name = self.scope.pointers[value.name]
            w.line(f"its_{name} = {at_row(name, 'its_row', value)}")
        for value in rows_of(self.scope.region):
            if self.scope.pointers[value.name] not in self._of_all_rows:
                name = self.scope.pointers[value.name]
                w.line(f"{name} = {at_row(name, 'row', value)}")

    @property
    def _of_all_rows(self) -> set[str]:
        """Pointers that stay with the step's first row: to what is written for all rows."""
        return {self.scope.pointers[v.name] for v in (self.node.outputs[0], *self.clears)}

    def emit(self) -> None:
        """The stages."""
        w = self.w
        with w.at(Stage.LOAD):
            self._load()
        with w.at(Stage.READ), self._at_its_row():
            self.elements.fetch_activations()
        with w.at(Stage.BESIDE):
            self._clear()
        self.prologue.emit()
        with w.at(Stage.COMPUTE, apart=True):
            w.line("group, member = uint32(lane >> uint32(2)), uint32(lane & uint32(3))")
            self.rows.gather()
            for first in self.firsts:
                first.multiply(self.rows.records[first.vector])
            self.rows.keep_factors()
            if isinstance(self.rows, Teams):
                w.line("cluster_wait()", "all mailboxes are open")
            w.line("barrier()")
            with w.block(f"if some(warp < uint32({self.width})):"), self._at_its_row():
                self._make_elements()
                self._send()
            w.line(f"mailbox_wait({self.mailbox})")
            self.next.multiply(self.received)
            w.line("barrier()")
            self._finish()

    # --- in front of the wait --------------------------------------------------------------------

    def _load(self) -> None:
        """All weights, decoded."""
        w, columns = self.w, self.columns
        nbytes = self.width * columns.own * PIECES * PIECE
        w.line(f"mailbox_open({self.mailbox}, uint32({nbytes}), worker == uint32(0))")
        self.rows.open()
        w.line("cluster_arrive_relaxed()")
        w.line(f"first = uint32({self.next.column('rank')} * {BLOCK})")
        panels = [self.next, *self.firsts]
        for panel in panels:
            panel.load()
        for panel in panels:
            panel.decode()
        w.line("unit = uint32(first + lane)")
        self.indices.emit(w)
        with self._at_its_row():
            self.elements.fetch_weights()

    def _clear(self) -> None:
        """Zeros where later kernels add, in all rows; see `zeros_of`."""
        w, share = self.w, self.threads * self.scope.geometry.grid
        for value in self.clears:
            pairs, pointer = value.shape[-1] // 2, self.scope.pointers[value.name]
            for first in range(0, pairs * self.width, share):
                w.line(f"zeros = uint32(block_index() * {self.threads} + worker + {first})")
                w.line(f"near = uint32(zeros // uint32({pairs}))")
                w.line(f"zeros = uint32(zeros + first_row * {pairs})")
                live = f"(near < uint32({self.width})) & (uint32(first_row + near) < there_are)"
                w.line(f"clear_pair({pointer}, zeros, {live})")

    # --- elements --------------------------------------------------------------------------------

    @property
    def _of_elements(self) -> list[Value]:
        """What element-wise work finds in memory at a row of the step."""
        nodes = self.segment.nodes
        names = {v.name for n in nodes for v in (*n.inputs, *n.outputs)}
        made = {a.inputs[0].name for a in anchors(self.segment)}
        return [v for v in rows_of(self.scope.region) if v.name in names - made]

    @contextmanager
    def _at_its_row(self) -> Iterator[None]:
        """Let values be found at the row whose elements a warp makes."""
        kept = dict(self.scope.pointers)
        for value in self._of_elements:
            self.scope.pointers[value.name] = f"its_{kept[value.name]}"
        yield
        self.scope.pointers.update(kept)

    def _make_elements(self) -> None:
        """A warp's row: the sums of this block's elements, and the element-wise work."""
        w, sums = self.w, {}
        self.rows.await_factors()
        for first in self.firsts:
            for k, anchor in enumerate(first.nodes):
                name = f"{first.tag}_{k}"
                total = first.total(name, "warp", f"lane + {BLOCK * k}")
                zero = " + float32(0)" if first.panel.leaves < LANES else ""
                w.line(f"{name} = {total}{zero}")
                if (inverse := inverse_of(anchor)) is not None:
                    factor = (
                        f"load_shared_f32(uint32({self.rows.factors[inverse.name]} + warp * 4))"
                    )
                    w.line(f"{name} = {name} * {factor}")
                sums[anchor.name, self.indices.names[0]] = name
        self.elements.fetch()
        self.elements.compute(sums)

    def _send(self) -> None:
        """A warp's elements, in fixed point, to every block of the cluster."""
        w, ranks = self.w, self.columns.ranks
        w.line(f"mine = only(unit < uint32({self.limit}), {self.elements.result})")
        w.line(f"its_sent = uint32({self.sent} + warp * {PIECES * PIECE})")
        w.line("store_sent(quad_of_lanes(mine, lane), lane, its_sent)")
        w.line("warp_barrier()")
        record = f"uint32({self.received} + rank * {OWN_RECORD})"
        for first in range(0, PIECES * ranks, WARP):
            w.line(f"k = uint32(lane + {first})" if first else "k = lane")
            w.line(f"other = uint32(k // uint32({PIECES}))")
            w.line(f"piece = uint32(k - other * {PIECES})")
            to = f"{record}, warp, {self.mailbox}, min_u32(other, uint32({ranks - 1}))"
            w.line(f"send_piece(piece, its_sent, {to}, other < uint32({ranks}))")

    # --- the end ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Partial sums of the rows that are there, to memory."""
        w, share, rows = self.w, self.next.share, self.next.rows
        count = share * self.width
        out, a_row = self.scope.pointers[self.node.name], words(self.node.outputs[0])
        steps = range(-(-count // self.threads))
        for k in steps:
            w.line(f"item = uint32(worker + {k * self.threads})" if k else "item = worker")
            w.line(f"has_one{k} = item < uint32({count})")
            w.line(f"item = min_u32(item, uint32({count - 1}))")
            w.line(f"near = uint32(item // uint32({share}))")
            w.line(f"slot = uint32(item - near * {share})")
            w.line(f"out{k} = uint32(rank * {share} + slot)")
            w.line(f"row{k} = uint32(first_row + near)")
            w.line(f"total{k} = {self.next.total(f'next{k}', 'near', 'slot')}")
        for k in steps:
            live = f"has_one{k} & (row{k} < there_are)"
            if share * self.columns.ranks > rows:
                live += f" & (out{k} < uint32({rows}))"
            if self.node.name in self.scope.added_to:
                w.line(
                    f"add_part_if(at({out}, uint32(row{k} * {rows} + out{k})), total{k}, {live})"
                )
                continue
            where = f"uint32(row{k} * {a_row} + part * {rows} + out{k})"
            w.line(f"store_f32_if(at({out}, {where}), total{k}, {live})")


class FirstMatrices(Fragments):
    """A block's elements of some matrices; matrix k of `nodes` has rows 32 k to 32 k + 31."""

    def __init__(self, scope: Scope, nodes: list[Node], tag: str, limit: int) -> None:
        panel = panel_of(nodes, scope.geometry.warps)
        super().__init__(scope, panel, tag, scope.rows)
        self.nodes, self.limit = nodes, limit
        self.vector = nodes[0].inputs[0].name

    @property
    def _size(self) -> tuple[int, int]:
        """See `Fragments`."""
        return self.limit, self.panel.blocks

    def column(self, block: str) -> str:
        """See `Fragments`."""
        return block

    def _row(self, slot: str) -> None:
        """See `Fragments`."""
        own = f"uint32(first + uint32({slot} & uint32({BLOCK - 1})))"
        self.w.line(f"row_of = min_u32({own}, uint32({self.limit - 1}))")
        pointers = [self.scope.pointers[node.inputs[1].name] for node in self.nodes]
        matrix = pointers[0]
        for k, pointer in enumerate(pointers[1:], 1):
            matrix = f"select_pointer({slot} >= uint32({BLOCK * k}), {pointer}, {matrix})"
        self.w.line(f"matrix = {matrix}")


class NextMatrix(Fragments):
    """A block's share of the rows of the next matrix, by the columns of its part."""

    def __init__(self, scope: Scope, node: Node, columns: Columns) -> None:
        panel = panel_of_parts(node, scope.geometry.warps)
        super().__init__(scope, panel, "next", scope.rows)
        self.columns, weight = columns, node.inputs[1]
        self.pointer = scope.pointers[weight.name]
        self.rows, self.blocks = weight.shape[0], weight.shape[1] // BLOCK
        self.share = -(-self.rows // columns.ranks)

    @property
    def _size(self) -> tuple[int, int]:
        """See `Fragments`."""
        return self.rows, self.blocks

    def column(self, block: str) -> str:
        """See `Fragments`."""
        branch = self.columns.branch
        turn = f"uint32({block} >> uint32({branch.bit_length() - 1})) * {LANES}"
        return f"uint32(part * {branch} + ({block} & uint32({branch - 1})) + {turn})"

    def _row(self, slot: str) -> None:
        """See `Fragments`."""
        last = f"uint32({self.rows - 1})"
        self.w.line(f"row_of = min_u32(uint32(rank * {self.share} + {slot}), {last})")
        self.w.line(f"matrix = {self.pointer}")
