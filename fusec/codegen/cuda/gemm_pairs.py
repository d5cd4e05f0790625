"""Tiles of pairs that are multiplied with the same expert: which a block takes, where they lie.

The second dimension of the grid numbers the tiles. An expert whose pairs begin at place `start` of
the order has tiles from number `start // width + expert` on. Up to the next expert's first that is
room for all its pairs, so that a block finds its expert without a table. Some numbers have no
pairs, as many as there are experts at most.

A tile's rows are places in the order, from `first_row` to `there_are`, the end of the expert's.
"""

from __future__ import annotations

from fusec.codegen.cuda.gemm_records import OfSlab, Tile
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import WARP
from fusec.ir.choice import Tiling
from fusec.ir.graph import Graph, Node
from fusec.ir.op_fixed import BLOCK, GROUP, RECORD
from fusec.ir.op_groups import blocks_of_slot, experts_of, is_grouped, used_by


def grouped_product(region: Graph) -> Node | None:
    """One of a kernel's products of rows that are sorted by expert, which are all grouped alike."""
    return next((node for node in region.nodes if is_grouped(node)), None)


def layers_of(node: Node, width: int) -> tuple[int, int]:
    """The rows of a step for which the grid has a layer, and how many it has besides."""
    return max(1, width // used_by(node)), experts_of(node)


class Pairs:
    """Those of one kernel, `node` one of its products."""

    def __init__(self, scope: Scope, tiling: Tiling, node: Node) -> None:
        self.scope, self.w, self.tiling, self.node = scope, scope.w, tiling, node
        self.rows = int(node["rows"])
        self.numbers = scope.shared("pairs", 4 * tiling.width)
        self.records = scope.shared("records", 4 * tiling.width)

    def begin(self) -> None:
        """The tile's expert, and its pairs in shared memory."""
        w, width, node = self.w, self.tiling.width, self.node
        order, starts = (self.scope.pointers[v.name] for v in node.inputs[2:])
        w.line("tile = uint32(block_index_y())")
        given = f"{starts}, tile, {experts_of(node)}, {width}, lane"
        w.line(f"expert = uint32(uniform(expert_of_tile({given})))")
        w.line(f"start = load_u32(at({starts}, expert))")
        w.line(f"inside = uint32(tile - expert - uint32(start // uint32({width})))")
        w.line(f"first_row = uint32(start + inside * {width})")
        w.line(f"there_are = load_u32(at({starts}, uint32(expert + uint32(1))))")
        with w.block("if uniform(first_row) >= uniform(there_are):"):
            w.line("return")
        w.line(f"first_of_expert = uint32(expert * {self.rows})")
        with w.block(f"if some(thread < uint32({-(-width // WARP) * WARP})):"):
            w.line("its = min_u32(uint32(first_row + thread), uint32(there_are - 1))")
            w.line(f"pair = load_u32(at({order}, its))")
            live = f"thread < uint32({width})"
            w.line(f"store_shared_u32_if(uint32({self.numbers} + thread * 4), pair, {live})")
            blocks = node.inputs[0].shape[-1] // BLOCK
            given = f"pair, {used_by(node)}, {blocks}, {blocks_of_slot(node)}, {RECORD // 4}"
            w.line(f"record = record_of_pair({given})")
            w.line(f"store_shared_u32_if(uint32({self.records} + thread * 4), record, {live})")
        w.line("barrier()")

    def find(self) -> None:
        """Of the place `near` in the tile: its `row` of the step, and `unit` behind its slot's."""
        w, used = self.w, used_by(self.node)
        w.line(f"pair = load_shared_u32(uint32({self.numbers} + near * 4))")
        w.line(f"row = uint32(pair // uint32({used}))")
        w.line(f"unit = min_u32(unit, uint32({self.rows - 1}))")
        w.line(f"unit = uint32(uint32(pair - row * {used}) * {self.rows} + unit)")


class OfPairs(OfSlab):
    """Records whose rows are gathered: each lane copies what one of eight rows has."""

    def __init__(self, slabs: Tile, pairs: Pairs) -> None:
        super().__init__(slabs)
        self.pairs = pairs

    def of_lane(self) -> None:
        """See `Records`: within a slab's place."""
        self._of_slab()
        self.w.line("its_row = uint32(uint32(lane & uint32(15)) >> uint32(1))")
        last = f"min_u32(uint32(lane - uint32(16)), uint32({GROUP - 1}))"
        self.w.line(f"its_last = select_u32(lane < uint32(16), its_row, {last})")

    def _sources(self, column: str) -> tuple[str, str]:
        """See `OfSlab`."""
        w = self.w
        found = []
        for name, row in (("two_digits_of_row", "its_row"), ("last_digit_or_facts", "its_last")):
            w.line(f"gathered = uint32({self.pairs.records} + (eight * {GROUP} + {row}) * 4)")
            w.line(f"inside = {name}(load_shared_u32(gathered), lane)")
            place = f"uint32(inside + {column} * {RECORD // 4})"
            w.line(f"from_{row} = at({self.slabs.scope.pointers[self.slabs.x.name]}, {place})")
            found.append(f"from_{row}")
        return found[0], found[1]
