"""Every matrix gets a layout: how its bytes will lie in the target's memory.

    matvec(%n, @w: q4_k[2048, 8192])   =>   matvec(%n, @w: q4_k.tiles[2048, 8192])

The target chooses it (`Target.layout_of`). Whatever depends on it later reads it off the value:
which matrices may share a kernel, what is emitted, how bytes are repacked when they are uploaded.
So the pass runs before all fusion, at every level.

Tiles are on their way to a kernel before the launch in front of it is complete. Where an index made
there says which rows are multiplied, that is too early, so such matrices lie by rows. So do those
whose rows go with a head each: a block has rows of one head, and no whole tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op_matvec import heads_of
from fusec.ir.ops import op, picks_rows
from fusec.ir.target import ROWS, TILES, Target
from fusec.passes.fuse import Refusal


@dataclass(frozen=True)
class PlaceWeights:
    """The pass. It changes nothing for a target that reads weights as the file has them."""

    name: str = "place-weights"
    equation: str = "@w => @w in its layout"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with laid-out weights; how many there are."""

        beside = _rows_beside(graph)
        apart = [node for node in graph.walk() if picks_rows(node) or heads_of(node) > 1]
        by_rows = {weight.name for node in apart for weight in node.weights}

        def layout(weight: Value) -> str:
            found = target.layout_of(weight, beside.get(weight.name, 0))
            return ROWS if weight.name in by_rows and found == TILES else found

        def placed(node: Node) -> Node:
            inputs = tuple(replace(v, layout=layout(v)) if v.is_weight else v for v in node.inputs)
            return replace(node, inputs=inputs, body=tuple(map(placed, node.body)))

        after = graph.replace_nodes(map(placed, graph.nodes))
        return after, sum(bool(w.layout) for w in after.weights), ()


def _rows_beside(graph: Graph) -> dict[str, int]:
    """Matrix -> the rows of all others that multiply the same vector, which its kernel may take."""
    matrices: dict[str, dict[str, int]] = {}  # of each vector
    for node in graph.walk():
        if op(node.op).role == "rows" and not picks_rows(node):
            vector, weight = node.inputs[:2]
            matrices.setdefault(vector.name, {})[weight.name] = weight.shape[0]
    return {
        name: sum(rows.values()) - own for rows in matrices.values() for name, own in rows.items()
    }
