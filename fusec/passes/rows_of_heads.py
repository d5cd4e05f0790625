"""A head's rows of the query, key and value products are made by the clusters that attend.

    %q, %k, $v' = fused norm_matvec_rope_kv(%x, ...)
    %z.parts = attention_project(%q, $k', $v', %pos, @w)
                    =>     %z.parts = fused norm_matvec_rope_kv_attention_project(%x, ...)

The thread blocks of a head are a cluster. Each makes a share of the head's rows of all three
products and sends them to the others, and then every block has the query, key and value that it
attends with: a launch and a vector in memory less. Heads that share a key make it each for itself.

A cluster has as many blocks as it may, as long as those of all heads leave half of the GPU to the
launch behind, whose blocks load their weights meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fusec.ir.graph import Graph, Node, attrs
from fusec.ir.ops import kind_of, op, role_of
from fusec.ir.target import ColumnSums, Target
from fusec.passes.fuse import Refusal
from fusec.passes.legal import why_illegal
from fusec.passes.merge import merge


@dataclass(frozen=True)
class RowsOfHeads:
    """The pass. It runs behind all that merges around products."""

    name: str = "rows-of-heads"
    equation: str = "rows -> heads => heads"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every such product in the kernel that attends."""
        refused, wide = [], {}
        makers: dict[str, Node] = {}
        for heads in graph.nodes:
            if role_of(heads) != "heads" or (rows := _made_by(graph, heads)) is None:
                continue
            found = in_clusters(heads, target)
            if isinstance(found, str):
                refused.append(Refusal(self.equation, (rows.name, heads.name), found))
                continue
            makers[heads.name], wide[heads.name] = rows, found
        changed = _with(graph, wide)
        for name, rows in makers.items():
            if reason := why_illegal(changed, (rows, wide[name]), (rows,), target):
                refused.append(Refusal(self.equation, (rows.name, name), reason))
                del wide[name]
        if not wide:
            return graph, 0, tuple(refused)
        pairs = [(makers[name], heads) for name, heads in wide.items()]
        merged, hits = merge(_with(graph, wide), [(pair, kind_of(pair)) for pair in pairs])
        return merged, hits, tuple(refused)


def _with(graph: Graph, nodes: Mapping[str, Node]) -> Graph:
    """The graph with some nodes exchanged for others of the same names."""
    return graph.replace_nodes([nodes.get(n.name, n) for n in graph.nodes]) if nodes else graph


def _made_by(graph: Graph, heads: Node) -> Node | None:
    """The node with the products that attention's query, key and value are made of, if any."""
    makers = (graph.producers.get(v.name) for v in heads.inputs if not v.is_weight)
    return next((m for m in makers if m is not None and role_of(m) == "rows"), None)


def in_clusters(heads: Node, target: Target) -> Node | str:
    """Attention by clusters of as many blocks as make a head's rows; or why there are none."""
    sums = target.column_sums
    attends = next(n for n in heads.ops if op(n.op).role == "heads")
    if not target.makes_rows or sums is None:
        return f"no clusters of thread blocks on {target.name}"
    if not attends.matrices:
        return f"{attends.op} {attends.name} has no clusters: it takes no projection in"
    blocks = _blocks(attends, sums, target)
    wide = replace(attends, attrs=attrs(**dict(attends.attrs) | {"spans": blocks}))
    if heads is attends:
        return wide
    return replace(heads, body=tuple(wide if n is attends else n for n in heads.body))


def _blocks(attends: Node, sums: ColumnSums, target: Target) -> int:
    """Thread blocks of a head's cluster: a power of two."""
    room = sums.cluster
    while (
        target.gpu is not None and room > 1 and int(attends["heads"]) * room > target.gpu.sms // 2
    ):
        room //= 2
    return max(room, int(attends["spans"]))
