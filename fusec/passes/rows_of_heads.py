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
        refused, groups, wide = [], [], {}
        for heads in graph.nodes:
            if role_of(heads) != "heads" or (rows := _made_by(graph, heads)) is None:
                continue
            found = in_clusters(rows, heads, target)
            if isinstance(found, str):
                refused.append(Refusal(self.equation, (rows.name, heads.name), found))
                continue
            changed = graph.replace_nodes([found if n is heads else n for n in graph.nodes])
            if reason := why_illegal(changed, (rows, found), (rows,), target):
                refused.append(Refusal(self.equation, (rows.name, heads.name), reason))
                continue
            wide[heads.name] = found
            groups.append(((rows, found), kind_of((rows, found))))
        if not groups:
            return graph, 0, tuple(refused)
        graph = graph.replace_nodes([wide.get(n.name, n) for n in graph.nodes])
        merged, hits = merge(graph, groups)
        return merged, hits, tuple(refused)


def _made_by(graph: Graph, heads: Node) -> Node | None:
    """The node with the product that a query is made of, if the query is made there alone."""
    query = next(n for n in heads.ops if op(n.op).role == "heads").inputs[0]
    maker = graph.producers.get(query.name)
    return maker if maker is not None and role_of(maker) == "rows" else None


def in_clusters(rows: Node, heads: Node, target: Target) -> Node | str:
    """Attention by clusters of as many blocks as make a head's rows; or why there are none."""
    sums = target.column_sums
    if not target.makes_rows or sums is None:
        return f"no clusters of thread blocks on {target.name}"
    if len(heads.ops) > 1:
        return f"{heads.name} makes its heads of another kernel's rows already"
    if not heads.matrices:
        return f"{heads.op} {heads.name} has no clusters: it takes no projection in"
    return replace(
        heads, attrs=attrs(**dict(heads.attrs) | {"spans": _blocks(heads, sums, target)})
    )


def _blocks(heads: Node, sums: ColumnSums, target: Target) -> int:
    """Thread blocks of a head's cluster: a power of two."""
    room = sums.cluster
    while target.gpu is not None and room > 1 and int(heads["heads"]) * room > target.gpu.sms // 2:
        room //= 2
    return max(room, int(heads["spans"]))
