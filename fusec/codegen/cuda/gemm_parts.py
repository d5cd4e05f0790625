"""The sums of a tile where a row of the matrix is a sum of parts, added exactly (`lib.exact`).

Leaves are those of `ByRows`, and as many as a part has lanes are added as a tree. What comes of it
is brought into words and added to those of the parts in front, in registers. If warps share the
columns (`Tiling.deep`), either each has whole parts, and their words are added at the end; or some
of them have a part together, and what they summed up is added as a tree first.
"""

from __future__ import annotations

from collections.abc import Callable

from fusec.codegen.cuda.gemm_orders import ByRows
from fusec.codegen.cuda.shape import anchors
from fusec.ir.op_matvec import branch_of

WORDS = 3  # of a number


class ByParts(ByRows):
    """`part`: leaves of a part."""

    def _find_order(self) -> None:
        """See `Products`."""
        super()._find_order()
        self.part = branch_of(anchors(self.members[0][0])[0])

    @property
    def has_whole_parts(self) -> bool:
        """Whether a warp makes whole parts."""
        return self.part <= self.own_leaves

    @property
    def levels(self) -> int:
        """See `Products`: of a part's tree, and room for words that others add."""
        if not self.has_whole_parts:
            return super().levels
        return max(self._part_levels, WORDS if self.tiling.deep > 1 else 0)

    @property
    def _part_levels(self) -> int:
        """Of a part's tree, above slabs."""
        return (self.part // min(self.part, self.at_once)).bit_length() - 1

    def _begin_row(self) -> None:
        """See `Products`."""
        if not self.has_whole_parts:
            super()._begin_row()
            return
        self._no_words()

    def _no_words(self) -> None:
        for m, n in self.fragments:
            self.w.line(f"words_{m}{n} = words_of_four(nothing)")

    def _add_part(self) -> None:
        """Add what a part's leaves come to."""
        for m, n in self.fragments:
            words = f"words_{m}{n}"
            self.w.line(f"{words} = plus_words_of_four({words}, words_of_four(sum_{m}{n}))")

    def _tree(self, count: int, first: int, leaf: Callable[[int], None], held: str) -> None:
        """See `Products`: of a slab that has several parts, each is a tree of its own."""
        if not self.has_whole_parts or count <= self.part:
            super()._tree(count, first, leaf, held)
            return
        for start in range(first, first + count, self.part):
            super()._tree(self.part, start, leaf, held)
            self._add_part()

    def _carry(self, branch: str, level: int) -> None:
        """See `Products`."""
        if not self.has_whole_parts:
            super()._carry(branch, level)
            return
        if self.at_once > self.part:
            return
        if level == self._part_levels:
            self._add_part()
            return
        with self.w.block(f"if {branch} & {1 << level}:"):
            for m, n in self.fragments:
                self.w.line(f"sum_{m}{n} = add_four({self._waiting(level, m, n)}, sum_{m}{n})")
            self._carry(branch, level + 1)
        with self.w.block("else:"):
            self._wait(level)

    def _finish(self) -> None:
        """See `Products`."""
        if not self.has_whole_parts:
            super()._finish()
            return
        behind = self.branches & ((1 << self._part_levels) - 1)
        if behind:
            self._from_waiting(behind, self._part_levels)
            self._add_part()
        if self.tiling.deep == 1:
            self._make_floats()

    def _make_floats(self) -> None:
        for m, n in self.fragments:
            self.w.line(f"sum_{m}{n} = nearest_four(words_{m}{n})")

    def _leave(self) -> None:
        """See `Products`."""
        if not self.has_whole_parts:
            super()._leave()
            return
        for m, n in self.fragments:
            places = ", ".join(self._place(level, m, n) for level in range(WORDS))
            self.w.line(f"store_words(({places}), words_{m}{n})")

    def _join(self) -> None:
        """See `Products`."""
        if self.has_whole_parts:
            for depth in range(self.tiling.deep):
                self._join_words(depth)
        else:
            self._no_words()
            together = self.part // self.own_leaves
            for depth in range(0, self.tiling.deep, together):
                super()._tree(together, depth, self._left, "joined")
                self._add_part()
        self._make_floats()

    def _join_words(self, depth: int) -> None:
        """Add the words that the warps of a depth have left."""
        for m, n in self.fragments:
            words = f"words_{m}{n}"
            places = ", ".join(self._left_at(depth, m, n, level) for level in range(WORDS))
            loaded = f"load_words(({places}))"
            self.w.line(
                f"{words} = {f'plus_words_of_four({words}, {loaded})' if depth else loaded}"
            )
