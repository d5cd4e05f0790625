"""A panel of weights is brought to shared memory and multiplied by a few rows of the step.

In front of the wait, threads load blocks of the panel's rows, decode them and store them as
fragments. Behind it, warps take the units (see `panels`): of each block, three digits of the step's
rows are multiplied by a fragment, and the products added up in the order of the kernel for one row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

from fusec.codegen.cuda.block_products import FLOATS, accumulate_tile, make_facts
from fusec.codegen.cuda.panels import FRAGMENT, Panel, fact_place
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import REGISTERS, WARP
from fusec.codegen.cuda.sources import tree
from fusec.ir.op_fixed import BLOCK, GROUP, OWN_RECORD

SIDES = (("upper", 0), ("lower", 8))  # rows of a fragment that a lane has sums of


class Fragments(ABC):
    """Emits all that becomes of one panel.

    `tag`: how its variables differ from those of other panels. `records`: the variable with the
    place of the digits that it is multiplied by, of `width` rows of the step, a power of two.
    """

    def __init__(self, scope: Scope, panel: Panel, tag: str, width: int) -> None:
        self.scope, self.w, self.panel, self.tag, self.width = scope, scope.w, panel, tag, width
        self.fmt, self.threads = panel.fmt, scope.geometry.threads
        levels, facts, sums = panel.sizes
        self.levels = scope.shared("levels", levels)
        self.facts = scope.shared("facts", facts)
        self.sums = scope.shared("unit_sums", sums)

    @abstractmethod
    def _row(self, slot: str) -> None:
        """Assign `matrix` and `row_of`: which row of which matrix is in a slot of the panel."""

    @abstractmethod
    def column(self, block: str) -> str:
        """Expression of the matrix's block of columns that is that block of the panel."""

    @property
    @abstractmethod
    def _size(self) -> tuple[int, int]:
        """Rows and blocks of the matrix."""

    # --- weights ---------------------------------------------------------------------------------

    def load(self) -> None:
        """The first weights on their way to registers."""
        for k in self._batches[0]:
            self._fetch(k)

    def decode(self) -> None:
        """All weights in shared memory."""
        for number, batch in enumerate(self._batches):
            for k in batch if number else ():
                self._fetch(k)
            for k in batch:
                self._store(k)

    @property
    def _batches(self) -> list[range]:
        """What a thread loads, as pairs of blocks, in batches that registers have room for."""
        items = -(-self.panel.pairs // self.threads)
        held = 2 * (1 + 8 * self.fmt.dtype.block_bytes // self.fmt.dtype.block)
        each = max(1, REGISTERS // held)
        return [range(first, min(first + each, items)) for first in range(0, items, each)]

    def _loaded(self, k: int, half: int) -> str:
        return f"{self.tag}_{k}_{half}"

    def _fetch(self, k: int) -> None:
        w, panel = self.w, self.panel
        place = f"uint32(worker + {k * self.threads})" if k else "worker"
        if (k + 1) * self.threads > panel.pairs:
            place = f"min_u32({place}, uint32({panel.pairs - 1}))"
        w.line(f"item = {place}")
        w.line(f"pair = uint32(item // uint32({panel.blocks}))")
        w.line(f"{self.tag}_block{k} = uint32(item - pair * {panel.blocks})")
        slot = f"{self.tag}_slot{k}"
        w.line(f"{slot} = uint32(pair + (pair & uint32({-8 & 0xFFFFFFFF})))")
        rows, blocks = self._size
        column = self.column(f"{self.tag}_block{k}")
        w.line(f"column = min_u32({column}, uint32({blocks - 1}))")
        for half in (0, 1):
            self._row(f"uint32({slot} + 8)" if half else slot)
            call = f"fetch_{self.fmt.name}(matrix, {rows}, {blocks}, row_of, column)"
            w.line(f"{self._loaded(k, half)} = {call}")

    def _store(self, k: int) -> None:
        """Levels and facts of a pair of blocks; threads behind the last one store it again."""
        w, panel, fmt = self.w, self.panel, self.fmt
        block, slot = f"{self.tag}_block{k}", f"{self.tag}_slot{k}"
        warps = -(-panel.pairs // WARP) * WARP
        mine = f"if some(uint32(worker + {k * self.threads}) < uint32({warps})):"
        with w.block(mine) if (k + 1) * self.threads > warps else nullcontext():
            loaded = [self._loaded(k, half) for half in (0, 1)]
            levels = ", ".join(f"levels_{fmt.name}({name})" for name in loaded)
            where = f"{self.levels} + {block} * {panel.levels_pitch} + {slot} * {BLOCK}"
            w.line(f"store_blocks({levels}, uint32({where}), {slot})")
            width = f"x{panel.facts}" if panel.facts > 1 else ""
            for half, name in enumerate(loaded):
                values = make_facts(w, fmt, name)
                behind = f"({slot} + {8 * half}) * {4 * panel.facts}"
                where = f"{self.facts} + {block} * {panel.facts_pitch} + {behind}"
                w.line(f"store_shared_f32{width}(uint32({where}), {', '.join(values)})")

    # --- products --------------------------------------------------------------------------------

    def multiply(self, records: str) -> None:
        """The sums of all units in shared memory."""
        w, panel = self.w, self.panel
        w.line(f"own_levels = uint32({self.levels} + place_of_lane(lane))")
        w.line(f"own_facts = uint32({self.facts} + group * {4 * panel.facts})")
        w.line(f"own_digits = uint32({records} + (lane & uint32({4 * self.width - 1})) * 8)")
        mask = f"uint32({self.width - 1})"
        for which, more in (("left", ""), ("right", " + 1")):
            row = f"((member * 2{more}) & {mask})"
            w.line(f"own_{which} = uint32({records} + {fact_place(row)})")
        w.line("nothing = (float32(0), float32(0), float32(0), float32(0))")
        turns = range(-(-panel.units // panel.warps))
        for k in turns:
            self._unit(k)
        for k in turns:
            with self._guard(k):
                w.line(f"store_four(place{k}, {panel.sums_row}, sum{k})")

    def _guard(self, k: int) -> AbstractContextManager[None]:
        """Only warps that have a k-th unit."""
        left = self.panel.units - k * self.panel.warps
        inside = left >= self.panel.warps
        return nullcontext() if inside else self.w.block(f"if some(warp < uint32({left})):")

    def _unit(self, k: int) -> None:
        """The warp's k-th unit: its sums, and where they go."""
        w, panel = self.w, self.panel
        first = k * panel.warps
        numbers = range(first, min(first + panel.warps, panel.units))
        counts = [panel.leaves_of(number) for number in numbers]
        unit = f"uint32(warp + {first})" if first else "warp"
        if panel.units - first < panel.warps:
            unit = f"min_u32({unit}, uint32({panel.units - 1}))"
        w.line(f"number = {unit}")
        w.line(f"branch = uint32(number // uint32({panel.tiles}))")
        w.line(f"tile = uint32(number - branch * {panel.tiles})")
        sums = panel.sums_row
        place = f"branch * {GROUP * sums} + member * {2 * sums} + (tile * {FRAGMENT} + group) * 4"
        w.line(f"place{k} = uint32({self.sums} + {place})")
        if panel.units - first < panel.warps:
            w.line(f"sum{k} = nothing")
        with self._guard(k):
            leaf = panel.branch
            w.line(
                f"at_levels = uint32(own_levels + branch * {leaf * panel.levels_pitch} "
                f"+ tile * {FRAGMENT * BLOCK})"
            )
            w.line(
                f"at_facts = uint32(own_facts + branch * {leaf * panel.facts_pitch} "
                f"+ tile * {FRAGMENT * 4 * panel.facts})"
            )
            w.line(f"behind = uint32(branch * {leaf * OWN_RECORD})")
            self._tree(0, max(counts), f"sum{k}", min(counts))

    def _tree(self, first: int, end: int, into: str, all_have: int) -> None:
        """The sum over leaves from `first` to `end` of a branch."""
        if end - first == 1:
            self._leaf(first, into, all_have)
            return
        half = 1 << (end - first - 1).bit_length() - 1
        self._tree(first, first + half, into, all_have)
        other = f"{into}_{half}"
        self._tree(first + half, end, other, all_have)
        self.w.line(f"{into} = add_four({into}, {other})")

    def _leaf(self, leaf: int, into: str, all_have: int) -> None:
        """A leaf's sum, of each of its blocks in turn; zeros where a branch has no such leaf."""
        w, panel = self.w, self.panel
        w.line(f"{into} = nothing")
        some_have_none = leaf >= all_have
        if some_have_none:
            w.line(f"has = uint32(branch * {panel.branch} + {leaf}) < uint32({panel.leaves})")
        with w.block("if some(has):") if some_have_none else nullcontext():
            for turn in range(panel.turns):
                self._block(leaf + turn * panel.leaves, into)
        if some_have_none:
            w.line(f"{into} = only_quad(has, {into})")

    def _block(self, block: int, into: str) -> None:
        """Add the products with one block of columns."""
        w, panel = self.w, self.panel
        w.line(f"levels = load_shared_u32x4(uint32(at_levels + {block * panel.levels_pitch}))")
        w.line(f"x = load_three(uint32(own_digits + behind + {block * OWN_RECORD}))")
        for which, more in SIDES:
            offset = block * panel.facts_pitch + more * 4 * panel.facts
            w.line(f"{which} = load_shared_{FLOATS[panel.facts]}(uint32(at_facts + {offset}))")
        known = panel.facts if self.fmt.has_min else 1
        for which in ("left", "right"):
            where = f"uint32(own_{which} + behind + {block * OWN_RECORD})"
            w.line(f"{which} = load_shared_{FLOATS[known]}({where})")
        made = ["products(levels, x)"]
        if panel.halves > 1:
            made = [f"half_products(levels, x, {half})" for half in range(panel.halves)]
        accumulate_tile(w, self.fmt, into, made, ("upper", "lower"), ("left", "right"))

    # --- their sum -------------------------------------------------------------------------------

    def total(self, name: str, row: str, slot: str) -> str:
        """Emit the loads of what a slot's branches have, of a row of the step; the sum of them."""
        panel = self.panel
        self.w.line(f"{name}_at = uint32({self.sums} + {row} * {panel.sums_row} + ({slot}) * 4)")
        for b in range(panel.branches):
            where = f"uint32({name}_at + {b * GROUP * panel.sums_row})" if b else f"{name}_at"
            self.w.line(f"{name}_{b} = load_shared_f32({where})")
        return tree([f"{name}_{b}" for b in range(panel.branches)])
