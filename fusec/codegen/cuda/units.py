"""Warps multiply a panel of weights (see `panels`) by a few rows of the step, unit by unit.

A unit's rows are two fragments, so the digits of the step's rows are loaded once for both. Of up to
four rows of the step, both fragments' products share the eight columns of an `mma`: where one
fragment is multiplied by zeros, the other one adds its products. Products are added up in the order
of the kernel for one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from fusec.codegen.cuda.panels import APART, FRAGMENT, Panel, fact_place
from fusec.codegen.cuda.sources import tree
from fusec.ir.op_fixed import BLOCK
from fusec.writer import Writer

FLOATS = {1: "f32", 2: "f32x2", 4: "f32x4"}  # how many -> the suffix of what loads them
SIDES = (("upper", 0), ("lower", 8))  # rows of a fragment that a lane has sums of


class Units:
    """Emits the products with one panel; `tag`: how its variables differ from those of others.

    `places`: variables with the places of its levels, its facts and its sums.
    """

    def __init__(self, w: Writer, panel: Panel, tag: str, places: tuple[str, str, str]) -> None:
        self.w, self.panel, self.tag = w, panel, tag
        self.fmt, self.width = panel.fmt, panel.width
        self.levels, self.facts, self.sums = places
        self.held: set[str] = set()  # blocks of units whose weights are in registers

    @property
    def turns(self) -> range:
        """A warp's units, one after the other."""
        return range(-(-self.panel.units // self.panel.warps))

    @property
    def sums_of_unit(self) -> tuple[str, ...]:
        """How the names of a unit's sums end: of both fragments, or of each."""
        return ("",) if self.panel.is_packed else ("_0", "_1")

    # --- weights ---------------------------------------------------------------------------------

    def hold(self, registers: int) -> int:
        """Load weights into so many registers, at most; returns how many are left."""
        self.w.line(f"own_levels = uint32({self.levels} + place_of_lane(lane))")
        for k in self.turns:
            self._find(k)
            for leaf in range(self._most_leaves(k)):
                for turn in range(self.panel.turns):
                    if registers < self._registers:
                        return registers
                    registers -= self._registers
                    self._load(k, leaf, turn)
                    self.held.add(self._name(k, leaf, turn))
        return registers

    @property
    def _registers(self) -> int:
        """For a block of a unit."""
        return 8 + 2 * self.panel.facts * len(self.sums_of_unit)

    def _find(self, k: int) -> None:
        """Which is the warp's k-th unit, and where its weights are."""
        w, panel, tag = self.w, self.panel, f"{self.tag}_{k}"
        first, last = k * panel.warps, panel.units - 1
        number = f"uint32(warp + {first})" if first else "warp"
        if first + panel.warps > panel.units:
            number = f"min_u32({number}, uint32({last}))"
        w.line(f"number = {number}")
        w.line(f"{tag}_branch = uint32(number // uint32({panel.pairs}))")
        w.line(f"{tag}_tile = uint32((number - {tag}_branch * {panel.pairs}) * 2)")
        w.line(f"{tag}_other = uint32({tag}_tile + 1)")
        if panel.tiles % 2:
            w.line(f"{tag}_other = min_u32({tag}_other, uint32({panel.tiles - 1}))")
        w.line(f"{tag}_mine = {tag}_tile")
        if panel.is_packed:
            other = f"{tag}_other, {tag}_tile"
            w.line(f"{tag}_mine = select_u32(member >= uint32(2), {other})")

    def _name(self, k: int, leaf: int, turn: int) -> str:
        """How the variables of a block's weights begin."""
        return f"{self.tag}_{k}_{leaf * self.panel.turns + turn}"

    def _load(self, k: int, leaf: int, turn: int) -> None:
        """A block's levels of both fragments, and the facts of the rows that a lane has sums of."""
        w, panel, tag, name = self.w, self.panel, f"{self.tag}_{k}", self._name(k, leaf, turn)
        own = f"uint32({tag}_branch * {panel.branch} + {leaf})"
        if leaf >= self._least_leaves(k):
            own = f"min_u32({own}, uint32({panel.leaves - 1}))"
        w.line(f"column = uint32({own} + {turn * panel.leaves})")
        for which, tile in (("a", f"{tag}_tile"), ("b", f"{tag}_other")):
            where = f"column * {panel.levels_pitch} + {tile} * {FRAGMENT * BLOCK}"
            w.line(f"{name}_{which} = load_shared_u32x4(uint32(own_levels + {where}))")
        for end, tile in zip(self.sums_of_unit, (f"{tag}_mine", f"{tag}_other"), strict=False):
            row = f"({tile} * {FRAGMENT} + group) * {4 * panel.facts}"
            w.line(f"its = uint32({self.facts} + column * {panel.facts_pitch} + {row})")
            for side, more in SIDES:
                where = f"uint32(its + {more * 4 * panel.facts})" if more else "its"
                w.line(f"{name}_{side}{end} = load_shared_{FLOATS[panel.facts]}({where})")

    # --- products --------------------------------------------------------------------------------

    def multiply(self, records: str) -> None:
        """The sums of all units in shared memory; `records`: a variable with the digits' place."""
        w, panel = self.w, self.panel
        w.line(f"own_levels = uint32({self.levels} + place_of_lane(lane))")
        w.line(f"own_digits = uint32({records} + (lane & uint32({4 * self.width - 1})) * 8)")
        for which, more in (("left", ""), ("right", " + 1")):
            row = f"((member * 2{more}) & uint32({self.width - 1}))"
            w.line(f"own_{which} = uint32({records} + {fact_place(row)})")
        w.line("nothing = (float32(0), float32(0), float32(0), float32(0))")
        for k in self.turns:
            self._find(k)
            for end in self.sums_of_unit if self._some_have_none(k) else ():
                w.line(f"sum{k}{end} = nothing")
            with self._guard(k):
                w.line(f"behind = uint32({self.tag}_{k}_branch * {panel.branch * APART})")
                self._tree(k, 0, self._most_leaves(k), f"sum{k}")
        for k in self.turns:
            with self._guard(k):
                self._store(k)

    def _store(self, k: int) -> None:
        """The k-th unit's sums; what its second fragment is again goes behind the last rows."""
        w, panel, tag = self.w, self.panel, f"{self.tag}_{k}"
        row = f"((member * 2) & uint32({self.width - 1})) * {panel.sums_row}"
        start = f"{self.sums} + {tag}_branch * {panel.sums_branch} + {row} + group * 4"
        w.line(f"place = uint32({start} + {tag}_tile * {4 * FRAGMENT})")
        if panel.is_packed:
            w.line(f"place = uint32(place + uint32(member >> uint32(1)) * {4 * FRAGMENT})")
        for n, end in enumerate(self.sums_of_unit):
            where = f"uint32(place + {4 * FRAGMENT})" if n else "place"
            w.line(f"store_four({where}, {panel.sums_row}, sum{k}{end})")

    def _some_have_none(self, k: int) -> bool:
        """Whether there are warps without a k-th unit."""
        return (k + 1) * self.panel.warps > self.panel.units

    def _guard(self, k: int) -> AbstractContextManager[None]:
        """Only warps that have a k-th unit."""
        left = self.panel.units - k * self.panel.warps
        head = f"if some(warp < uint32({left})):"
        return self.w.block(head) if self._some_have_none(k) else nullcontext()

    def _numbers(self, k: int) -> range:
        """The k-th units of all warps."""
        first = k * self.panel.warps
        return range(first, min(first + self.panel.warps, self.panel.units))

    def _most_leaves(self, k: int) -> int:
        return max(map(self.panel.leaves_of, self._numbers(k)))

    def _least_leaves(self, k: int) -> int:
        return min(map(self.panel.leaves_of, self._numbers(k)))

    def _tree(self, k: int, first: int, end: int, into: str) -> None:
        """The sums over leaves from `first` to `end` of the k-th unit's branch."""
        if end - first == 1:
            self._leaf(k, first, into)
            return
        half = 1 << (end - first - 1).bit_length() - 1
        self._tree(k, first, first + half, into)
        other = f"{into}_{first + half}_{end}"
        self._tree(k, first + half, end, other)
        for end_of in self.sums_of_unit:
            self.w.line(f"{into}{end_of} = add_four({into}{end_of}, {other}{end_of})")

    def _leaf(self, k: int, leaf: int, into: str) -> None:
        """A leaf's sums, of each of its blocks in turn; zeros where a branch has no such leaf."""
        w, panel = self.w, self.panel
        for end in self.sums_of_unit:
            w.line(f"{into}{end} = nothing")
        number = f"uint32({self.tag}_{k}_branch * {panel.branch} + {leaf})"
        has_one = f"if some({number} < uint32({panel.leaves})):"
        with w.block(has_one) if leaf >= self._least_leaves(k) else nullcontext():
            for turn in range(panel.turns):
                self._block(k, leaf, turn, into)

    def _block(self, k: int, leaf: int, turn: int, into: str) -> None:
        """Add the products with one block of columns."""
        w, panel, name = self.w, self.panel, self._name(k, leaf, turn)
        if name not in self.held:
            self._load(k, leaf, turn)
        further = (leaf + turn * panel.leaves) * APART
        w.line(f"x = load_three(uint32(own_digits + behind + {further}))")
        known = panel.facts if self.fmt.has_min else 1
        for which in ("left", "right"):
            where = f"uint32(own_{which} + behind + {further})"
            w.line(f"{which} = load_shared_{FLOATS[known]}({where})")
        if panel.is_packed:
            w.line("of_a, of_b = of_fragments(lane < uint32(16), x)")
        for end, which in zip(self.sums_of_unit, "ab", strict=False):
            for line in self._added(into + end, name, which, end):
                w.line(line)

    def _added(self, s: str, name: str, which: str, end: str) -> Iterator[str]:
        """As `block_products` does it for one row: the products, then the minima."""
        halves, has_min = self.panel.halves, self.fmt.has_min
        quanta = "left[0], right[0]" if has_min else "left, right"
        given = f"{name}_{which}, x"
        if self.panel.is_packed:
            given = f"{name}_a, {name}_b, of_a, of_b"
        prefix = "packed_" if self.panel.is_packed else ""

        def pair(number: int) -> str:
            index = f"[{number}]" if self.panel.facts > 1 else ""
            return f"{name}_upper{end}{index}, {name}_lower{end}{index}"

        for half in range(halves):
            made = f"{prefix}products({given})"
            if halves > 1:
                made = f"{prefix}half_products({given}, {half})"
            yield f"{s} = add_scaled({s}, joined({made}), {pair(half)}, {quanta})"
        for half in range(halves if has_min else 0):
            k = 1 if halves == 1 else 2 + half
            totals = f"left[{k}], right[{k}]"
            yield f"{s} = less_minima({s}, {pair(halves + half)}, {quanta}, {totals})"

    # --- their sum -------------------------------------------------------------------------------

    def total(self, name: str, row: str, slot: str) -> str:
        """Emit the loads of what a slot's branches have, of a row of the step; the sum of them."""
        panel = self.panel
        self.w.line(f"{name}_at = uint32({self.sums} + {row} * {panel.sums_row} + ({slot}) * 4)")
        for b in range(panel.branches):
            where = f"uint32({name}_at + {b * panel.sums_branch})" if b else f"{name}_at"
            self.w.line(f"{name}_{b} = load_shared_f32({where})")
        return tree([f"{name}_{b}" for b in range(panel.branches)])
