"""The sums of a tile: rows of matrices times rows of the step, in the order of one row's kernel.

The order of a row's sum is walked as a stream, slab after slab (`gemm_slabs`). In every order a row
is a balanced tree over leaves, each the sum of some blocks: of a lane's (`matvec`) or of a warp's
(`tiles`). Leaves come one after the other, each with its blocks in order. A sum waits in shared
memory until its neighbour is there, then the sum of both waits for its own neighbour, and so on, as
digits of a counter carry.

Which leaves there are, and what a block adds to which sums, is said by the two orders in
`gemm_orders`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext

from fusec.codegen.cuda.block_products import FLOATS
from fusec.codegen.cuda.gemm_records import OfBlock
from fusec.codegen.cuda.gemm_slabs import Slabs
from fusec.codegen.cuda.shape import WARP
from fusec.ir.op_fixed import BLOCK, FACT_BYTES

OUT = 4  # floats between rows of sums


class Products(Slabs):
    """Emits the sums of one class of segments, from the first weights to where they lie."""

    of_weights: int
    """Floats that a block's products need to know of a row of the matrix: the first of `facts`."""
    of_vector: int
    """The same of a row of the step, the first of those that `fusec.ir.op_fixed` lists."""
    product: str
    """The function that multiplies digits by levels."""

    # --- what an order says ----------------------------------------------------------------------

    def _blocks_of(self, _leaf: int) -> int:
        """How many blocks a leaf has."""
        return self.share

    @property
    def _full_leaves(self) -> int:
        """How many leaves, the first ones, have as many blocks as any."""
        return sum(self._blocks_of(leaf) == self.share for leaf in range(self.leaves))

    @abstractmethod
    def _begin(self) -> None:
        """A leaf's sums."""

    @abstractmethod
    def _add(self, m: int, n: int) -> None:
        """What a fragment's products add to them."""

    @abstractmethod
    def _end(self, part: int) -> None:
        """The leaf's sums as one, `sum_mn`; its blocks of the slab begin with number `part`."""

    @abstractmethod
    def _end_part(self) -> None:
        """What to keep of a slab that has a part of a leaf."""

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def is_early(self) -> bool:
        """Whether the first weights are decoded before the digits are asked for."""
        return isinstance(self.records, OfBlock)

    @property
    def reach(self) -> int:
        """Records of a row that are multiplied: also those behind the last block, of its slab."""
        if self.share > 1:
            return 1 + self.columns_behind(self.leaves - 1, self.turns * self.per - 1)
        return -(-self.blocks // self.at_once) * self.at_once

    @property
    def nbytes(self) -> int:
        """Shared memory."""
        levels = max(self.levels, self.tiling.deep > 1)
        return self.waiting + levels * self.tiling.threads * 16 * len(self.fragments)

    @property
    def waiting(self) -> int:
        """Where a thread's sums wait for their neighbours: behind the stages."""
        return self.stages * self.stage

    @property
    def stages(self) -> int:
        """Slabs in shared memory at a time."""
        return min(self.tiling.stages, self.slabs)

    # --- products --------------------------------------------------------------------------------

    @property
    def fragments(self) -> list[tuple[int, int]]:
        """Those of a warp."""
        return [(m, n) for m in range(self.tiling.high) for n in range(self.tiling.wide)]

    def emit(self) -> None:
        """From the first digits to the sums in shared memory."""
        w = self.w
        self._of_lane()
        for ahead in self.ahead:
            self.records.bring(str(ahead), self._stage(ahead))
        if not self.is_early:
            self.decode_first()
        w.line("nothing = (float32(0), float32(0), float32(0), float32(0))")
        w.line(f"waiting = uint32(stage + {self.waiting} + thread * 16)")
        self._begin_row()
        if self.turns > 1:
            self._begin()
        with w.block(f"for step in range({self.slabs}):"):
            w.line("slab = uint32(step)", "remainders of 64 bits take ten instructions each")
            self._pass()
        w.line("barrier()")
        self._store()

    def _begin_row(self) -> None:
        """What is there before the first slab."""
        for m, n in self.fragments if self.is_full else ():
            self.w.line(f"sum_{m}{n} = nothing")

    def decode_first(self) -> None:
        """The weights of the slabs that are on their way before the first is multiplied."""
        for ahead in self.ahead:
            for k in self.items:
                self._decode(k, self._stage(ahead), ahead)

    def _of_lane(self) -> None:
        """What a lane multiplies of the tile, and where that of the first block lies."""
        w, tiling = self.w, self.tiling
        w.line("group, member = uint32(lane >> uint32(2)), uint32(lane & uint32(3))")
        if tiling.deep > 1:
            w.line(
                f"own_depth = uint32(warp // uint32({self.flat}))", "which branch is this warp's"
            )
            w.line(f"flat = uint32(warp - own_depth * {self.flat})")
        else:
            w.line("flat = warp")
        w.line(f"warp_row = uint32((flat // uint32({tiling.along})) * {16 * tiling.high})")
        w.line(f"warp_width = uint32((flat & uint32({tiling.along - 1})) * {8 * tiling.wide})")
        levels, scales = (
            f" + own_depth * {self.own * each}" if tiling.deep > 1 else ""
            for each in (tiling.rows * BLOCK, tiling.rows * 4 * self.facts)
        )
        w.line(f"own_levels = uint32(warp_row * {BLOCK} + place_of_lane(lane){levels})")
        start = f"{self.scales} + (warp_row + group) * {4 * self.facts}"
        w.line(f"own_scales = uint32({start}{scales})")
        self.records.of_lane()

    def _pass(self) -> None:
        """One slab multiplied, while a later one is on its way."""
        w, stages, more = self.w, self.stages, self.slabs > len(self.ahead)
        later = f"(slab + {stages - 1})"
        counts = more and not self.is_early
        w.line(f"copy_async_wait_{stages - 2}()" if counts else "copy_async_wait()")
        w.line("barrier()", "this slab is there, and all warps are done with the one before")
        w.line(f"here = uint32(stage + uint32(slab % {stages}) * {self.stage})")
        if more:
            w.line(f"there = uint32(stage + uint32({later} % {stages}) * {self.stage})")
            with w.block(f"if {later} < {self.slabs}:"):
                self.records.bring(later, "there")
                for k in self.items:
                    self._fetch(k, later)
            if counts and stages > 2:
                with w.block("else:"):
                    w.line("copy_async_commit()", "nothing, which is counted too")
        self._slab()
        if more:
            with w.block(f"if {later} < {self.slabs}:"):
                for k in self.items:
                    self._decode(k, "there")

    @property
    def levels(self) -> int:
        """Of the tree above slabs, in which their sums wait."""
        return min(self.branches.bit_length(), (self.own_leaves // self.at_once).bit_length() - 1)

    @property
    def is_full(self) -> bool:
        """Whether all leaves of a warp are walked: the last carry ends its branch."""
        return self.branches * self.at_once == self.own_leaves

    @property
    def flat(self) -> int:
        """Warps that have the same columns."""
        return self.tiling.across * self.tiling.along

    def _slab(self) -> None:
        """The slab's leaves of the tree: their branch, and what becomes of its sum."""
        if self.turns == 1:
            self.records.of_slab()
            some_have_none = self.tiling.deep > 1 and self.blocks < self.leaves
            for m, n in self.fragments if some_have_none else ():
                self.w.line(f"sum_{m}{n} = nothing")
            first = f"uint32(slab * {self.at_once})"
            if self.tiling.deep > 1:
                first = f"own_depth * {self.own_leaves} + {first}"
            has_one = f"if some(uint32({first}) < uint32({self.blocks})):"
            with self.w.block(has_one) if some_have_none else nullcontext():
                self._branch(first)
            self._carry("slab", 0)
            return
        w = self.w
        w.line(f"now = uint32(uint32(slab) // uint32({self.turns}))")
        w.line(f"turn = uint32(slab - now * {self.turns})")
        self.records.of_slab()
        with w.block("if turn == 0:"):
            self._begin()
        for part in range(self.per):
            self._block(part)
        self._end_part()
        with w.block(f"if turn == {self.turns - 1}:"):
            self._end(0)
            self._carry("now", 0)

    def _branch(self, first: str) -> None:
        """The tree over a slab's leaves from number `first` on; the last slabs have fewer blocks.

        Where a slab has none there are zeros, which cost as much, so what no slab has behind the
        full ones is left out in these.
        """
        full = self._full_leaves // self.at_once * self.at_once
        if full >= min(self.blocks, self.leaves):
            self._tree(self.at_once, 0, self._leaf, "held")
            return
        if full:
            test = f"uint32({first}) < uint32({full})"
            with self.w.block(f"if some({test}):" if self.tiling.deep > 1 else f"if {test}:"):
                self._tree(self.at_once, 0, self._leaf, "held")
        with self.w.block("else:") if full else nullcontext():
            self._tree(self.at_once, 0, lambda own: self._leaf(own, full), "held")

    def _tree(self, count: int, first: int, leaf: Callable[[int], None], held: str) -> None:
        """The sums over `count` leaves, from the `first` on, each of which `leaf` makes.

        `held`: how the variables begin in which a sum waits for its neighbour.
        """
        if count == 1:
            leaf(first)
            return
        self._tree(count // 2, first, leaf, held)
        for m, n in self.fragments:
            self.w.line(f"{held}{count}_{m}{n} = sum_{m}{n}")
        self._tree(count // 2, first + count // 2, leaf, held)
        for m, n in self.fragments:
            self.w.line(f"sum_{m}{n} = add_four({held}{count}_{m}{n}, sum_{m}{n})")

    def _leaf(self, own: int, first: int = 0) -> None:
        """The sum of a slab's leaf, of each of its blocks in turn; zeros where it has none.

        `first`: the lowest number that the slab's first leaf has.
        """
        self._begin()
        for r in range(min(self.per, self._blocks_of(first + own))):
            self._block(own * self.per + r)
        self._end(own * self.per)

    def _block(self, part: int) -> None:
        """A block of 32 columns, of which the slab has several: all products, then all sums."""
        w, tiling = self.w, self.tiling
        w.line(f"place = uint32(here + own_levels + {part * tiling.rows * BLOCK})")
        for m in range(tiling.high):
            w.line(f"rows_{m} = load_shared_u32x4(uint32(place + {m * 16 * BLOCK}))")
        w.line(f"digits = {self.records.behind('digits', part, 0)}")
        for m in range(tiling.high):
            self._load_weights(m, part, 0, self.of_weights)
        for n in range(tiling.wide):
            w.line(f"x = load_three(uint32(digits + {n * self.records.of_eight}))")
            for m in range(tiling.high):
                if self.halves == 1:
                    w.line(f"product_{m}{n} = {self.product}(rows_{m}, x)")
                for half in range(self.halves if self.halves > 1 else 0):
                    w.line(f"product{half}_{m}{n} = half_{self.product}(rows_{m}, x, {half})")
            self._load_vector(n, part, self.of_vector)
            for m in range(tiling.high):
                self._add(m, n)

    def _load_weights(self, m: int, part: int, first: int, count: int) -> None:
        """Of both rows of fragment m that a lane has sums of: facts of a block, `first` and on."""
        start = part * self.tiling.rows * self.facts + first
        for which, more in (("upper", 0), ("lower", 8)):
            offset = 4 * (start + (m * 16 + more) * self.facts)
            where = f"uint32(here + own_scales + {offset})"
            self.w.line(f"{which}_{m} = load_shared_{FLOATS[count]}({where})")

    def _load_vector(self, n: int, part: int, count: int) -> None:
        """The same of both rows of the step: the first facts of a block."""
        for which, more in (("first", 0), ("second", FACT_BYTES)):
            where = self.records.behind("units", part, n * self.records.of_eight + more)
            self.w.line(f"{which} = load_shared_{FLOATS[count]}({where})")

    def _carry(self, branch: str, level: int) -> None:
        """Add what waits for these sums, or let them wait; `branch`: the variable of its number."""
        w = self.w
        last = level + 1 == self.levels
        if self.levels == 0:
            return
        if not last or self.is_full:
            with w.block(f"if {branch} & {1 << level}:"):
                for m, n in self.fragments:
                    w.line(f"sum_{m}{n} = add_four({self._waiting(level, m, n)}, sum_{m}{n})")
                if not last:
                    self._carry(branch, level + 1)
        with nullcontext() if last and not self.is_full else w.block("else:"):
            self._wait(level)

    def _wait(self, level: int) -> None:
        """Leave the sums where those of a level wait."""
        for m, n in self.fragments:
            s = ", ".join(f"sum_{m}{n}[{k}]" for k in range(4))
            self.w.line(f"store_shared_f32x4({self._place(level, m, n)}, {s})")

    def _place(self, level: int, m: int, n: int) -> str:
        """Where sums of a level wait."""
        number = level * len(self.fragments) + m * self.tiling.wide + n
        return f"uint32(waiting + {number * self.tiling.threads * 16})"

    def _waiting(self, level: int, m: int, n: int) -> str:
        return f"load_shared_f32x4({self._place(level, m, n)})"

    def _finish(self) -> None:
        """A warp's sums, of all its columns."""
        if not self.is_full:
            self._from_waiting(self.branches, self.levels)

    def _from_waiting(self, branches: int, levels: int) -> None:
        """The sums of so many branches, the last ones, which wait for neighbours of zeros."""
        for m, n in self.fragments:
            self.w.line(f"sum_{m}{n} = nothing", "of the leaves that have no block")
            for level in range(levels):
                if branches >> level & 1:
                    waiting = self._waiting(level, m, n)
                    self.w.line(f"sum_{m}{n} = add_four({waiting}, sum_{m}{n})")

    def _leave(self) -> None:
        """A warp's sums where those find them that add all warps' up."""
        self._wait(0)

    def _join(self) -> None:
        """The sums of all warps that share the columns."""
        self._tree(self.tiling.deep, 0, self._left, "joined")

    def _store(self) -> None:
        """The sums, complete, where element-wise work finds them."""
        w, tiling = self.w, self.tiling
        self._finish()
        row = 4 * (tiling.rows + OUT)
        first = f"if some(warp < uint32({self.flat})):"
        if tiling.deep > 1:
            self._leave()
            w.line("barrier()")
        with w.block(first) if tiling.deep > 1 else nullcontext():
            if tiling.deep > 1:
                behind = f"own_depth * {self.flat * WARP * 16}"  # all of them find the first's
                w.line(f"branches = uint32(waiting - {behind})")
                self._join()
            where = f"(warp_width + member * 2) * {row} + (warp_row + group) * 4"
            w.line(f"place = uint32(stage + {where})")
            for m, n in self.fragments:
                w.line(f"store_four(uint32(place + {n * 8 * row + m * 64}), {row}, sum_{m}{n})")
        w.line("barrier()")

    def _left(self, branch: int) -> None:
        """The sums over a branch, as its warps have left them."""
        for m, n in self.fragments:
            self.w.line(f"sum_{m}{n} = load_shared_f32x4({self._left_at(branch, m, n)})")

    def _left_at(self, branch: int, m: int, n: int, level: int = 0) -> str:
        """Where the warps of a branch have left something."""
        number = level * len(self.fragments) + m * self.tiling.wide + n
        number = number * self.tiling.threads + branch * self.flat * WARP
        return f"uint32(branches + {number * 16})"
