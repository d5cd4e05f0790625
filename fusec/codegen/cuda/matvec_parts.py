"""Rows of matrices, and partial sums of the next product, in clusters of thread blocks (split-K).

A cluster makes the elements that belong to one part's columns, as `matvec` does, and every warp
sends its elements to all thread blocks of the cluster. Each block brings all of them into fixed
point and multiplies its share of the next matrix's rows by them (see `projection`). What is sent is
counted where it arrives, as in `attention_project`. Elements behind the last one are zero.
"""

from __future__ import annotations

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.cluster_rows import ClusterRows
from fusec.codegen.cuda.columns import BLOCK, LANES, Columns
from fusec.codegen.cuda.projection import Projection
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.shape import WARP
from fusec.ir.graph import Node


class SharedMatvec(ClusterRows):
    """The one segment of a kernel, and the product behind it."""

    def __init__(self, alike: Alike, prologue: Prologue, node: Node) -> None:
        super().__init__(alike, prologue)
        self.whole = False  # clusters behind the last element
        scope, geometry = self.scope, self.scope.geometry
        self.columns = Columns.of(node, geometry.warps * geometry.rows_at_once)
        branch, ranks = self.columns.branch, self.columns.ranks
        self.projection = Projection(scope, node.inputs[1], branch, ranks, node.outputs[0])
        self.vector = scope.shared("vector", 4 * BLOCK * self.columns.own)
        self.mailbox = scope.exchange.mailbox("mailbox")

    def _first_row(self, step: str) -> str:
        """See `Matvec._first_row`: a part's elements are several runs of neighbours."""
        run = self.columns.branch * BLOCK
        w = self.scope.w
        w.line(f"place = uint32((rank * {self.scope.geometry.warps} + warp) * {self.at_once})")
        w.line(f"run = uint32(place // uint32({run}))")
        return f"uint32(run * {LANES * BLOCK} + part * {run} + place - run * {run})"

    def load(self) -> None:
        """The first weights of both."""
        w, ranks, exchange = self.scope.w, self.columns.ranks, self.scope.exchange
        w.line(f"part = uint32(block // uint32({ranks}))")
        w.line(f"rank = uint32(block - part * {ranks})")
        nbytes = 4 * BLOCK * self.columns.own
        w.line(exchange.open(self.mailbox, nbytes))
        exchange.arrive(w)
        self.projection.load()
        super().load()
        self.projection.decode()

    def _rest(self) -> None:
        super()._rest()
        w, quads = self.scope.w, 8 * self.columns.own
        self.scope.exchange.opened(w)
        w.line(f"mine = only(unit < uint32({self.limit}), {self.elements.result})")
        place = f"uint32({self.vector} + (place + {self.own_row}) * 4)"
        self._send("mine", place, self.mailbox, self.columns.ranks)
        with w.block(f"if some(thread < uint32({-(-quads // WARP) * WARP})):"):
            w.line(self.scope.exchange.wait(self.mailbox))
            inside = f"thread < uint32({quads})"
            own = f"min_u32(thread, uint32({quads - 1}))"
            w.line(f"elements = load_shared_f32x4(uint32({self.vector} + {own} * 16))")
            self.projection.store_digits("elements", "thread", inside)
        w.line("barrier()")
        self.projection.finish()
