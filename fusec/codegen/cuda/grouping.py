"""The pairs of a step sorted by expert: `group`, in one launch, by a warp for each expert.

A warp counts the pairs of experts in front of its own, and then writes its own in order.
"""

from __future__ import annotations

from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import WARP, Geometry
from fusec.codegen.cuda.stages import Stage
from fusec.ir.graph import Graph

WARPS = 8  # of a block


def is_grouping(region: Graph) -> bool:
    """Whether a kernel sorts the pairs of a step."""
    return any(node.op == "group" for node in region.nodes)


def grouping_geometry(region: Graph) -> Geometry:
    """The grid of such a kernel, which has one layer for all rows of the step."""
    blocks = -(-int(region.nodes[0]["experts"]) // WARPS)
    return Geometry(WARPS * WARP, 1, 1, 1, (blocks,), blocks, "wait", 1, False, False)


class Grouping:
    """Emits the whole kernel."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.w = scope, scope.w
        (self.node,) = scope.region.nodes
        scope.holds = False

    def emit(self) -> None:
        """From the ids to the places."""
        w, experts = self.w, int(self.node["experts"])
        ids, order, starts = (
            self.scope.pointers[v.name] for v in (*self.node.inputs, *self.node.outputs)
        )
        with w.at(Stage.FIND):
            used = self.node.inputs[0].shape[-1]
            w.line(f"pairs = uint32(uniform(load_u32(rows)) * {used})")
            w.line(f"expert = uint32(block * {WARPS} + warp)")
        with w.at(Stage.COMPUTE):
            w.line(f"first = pairs_before({ids}, pairs, expert, lane)")
            w.line(f"live = (lane == uint32(0)) & (expert < uint32({experts}))")
            w.line(f"store_u32_if(at({starts}, expert), first, live)")
            w.line(f"last = live & (expert == uint32({experts - 1}))")
            w.line(f"store_u32_if(at({starts}, uint32({experts})), pairs, last)")
            w.line(f"sort_pairs({ids}, {order}, pairs, expert, first, lane)")
