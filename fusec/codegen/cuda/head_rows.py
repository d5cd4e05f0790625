"""A head's rows of the query, key and value products, made by its cluster of thread blocks.

Each block makes an equal share of them, as `matvec` does, and every warp sends its rows to all
blocks of the cluster, in whose shared memory `raw` they lie: query, key and value one behind the
other. What is sent is counted where it arrives, as in `attention_project`.

Heads that share a key and a value make these each for itself: nobody waits for another cluster.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

from fusec.codegen.cuda.alike import Alike, together
from fusec.codegen.cuda.cluster_rows import ClusterRows
from fusec.codegen.cuda.head_prologue import makers_of
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.shape import registers, rows_made
from fusec.codegen.cuda.sources import Shared
from fusec.ir.graph import Node
from fusec.ir.op_attention import head_sizes
from fusec.ir.region import KernelShape, Segment


class HeadRows(ClusterRows):
    """The products of `shape.rows_of_heads`, in the kernel of the attention `node`.

    Variables that it finds: `head`, `kv_head`, and `rank`, which of the cluster's blocks it is.
    """

    def __init__(self, heads: Alike, prologue: Prologue, node: Node, shape: KernelShape) -> None:
        products = {n.name: n for n in shape.rows_of_heads}
        made = {n.outputs[0].name: n for n in shape.of_heads}
        self.nodes = [products[makers_of(made, value)[1].name] for value in node.inputs[:3]]
        segments = [Segment((n,), n.outputs[0].shape[-1]) for n in self.nodes]
        super().__init__(together(heads.scope, segments), prologue)
        self.whole = True
        self.sizes, self.ranks = head_sizes(node), int(node["spans"])
        self.share = rows_made(shape)
        self.active = self.share // self.at_once  # warps that make rows
        self.raw = self.scope.shared("raw", 4 * sum(self.sizes))
        self.mailbox = self.scope.exchange.mailbox("raw_mailbox")

    @property
    def registers(self) -> int:
        """What a lane's weights fill."""
        return self.at_once * max(map(registers, self.nodes))

    @property
    def made(self) -> dict[str, Shared]:
        """Where the head's elements of each product's vector lie."""
        starts = accumulate(self.sizes, initial=0)
        return {
            node.outputs[0].name: Shared(f"uint32({self.raw} + {4 * start})", size)
            for node, start, size in zip(self.nodes, starts, self.sizes, strict=False)
        }

    def _first_row(self, step: str) -> str:
        """See `Matvec._first_row`."""
        return "uint32(slot + behind)"

    def load(self) -> None:
        """The weights of a warp's rows, and the mailbox that counts what all send."""
        w = self.scope.w
        w.line(self.scope.exchange.open(self.mailbox, 4 * sum(self.sizes)))
        with self.alike.bound(), self._makers():
            self._choose()
            super().load()

    def _makers(self) -> AbstractContextManager[None]:
        """Only the warps that make rows."""
        if self.active == self.scope.geometry.warps:
            return nullcontext()
        return self.scope.w.block(f"if some(warp < uint32({self.active})):")

    def _choose(self) -> None:
        """Which product a warp has rows of, and how far behind its slot the first one lies."""
        w = self.scope.w
        w.line(f"slot = uint32(rank * {self.share} + warp * {self.at_once})")
        query, key, _ = self.sizes
        w.line(f"is_key = slot >= uint32({query})")
        w.line(f"is_value = slot >= uint32({query + key})")
        self.alike.select(("is_key", "is_value"))
        first = [
            f"{head} * {size} - uint32({end - size})"
            for head, size, end in zip(
                ("head", "kv_head", "kv_head"), self.sizes, accumulate(self.sizes), strict=True
            )
        ]
        of_key = f"select_u32(is_key, uint32({first[1]}), uint32({first[0]}))"
        w.line(f"behind = select_u32(is_value, uint32({first[2]}), {of_key})")

    def finish(self) -> None:
        """Products, and what becomes of them: all rows of the head in every block's memory."""
        w = self.scope.w
        with self.alike.bound(), self._makers():
            self._rest()
            self.scope.exchange.opened(w)
            place = f"uint32({self.raw} + (slot + {self.own_row}) * 4)"
            self._send(self.elements.result, place, self.mailbox, self.ranks)
        w.line(self.scope.exchange.wait(self.mailbox))
