"""The two orders of sums that `gemm_products` walks as a stream: of rows, and of tiles.

An order is that of the one-row kernel of the same layout, operation by operation (docs/numbers.md).
"""

from __future__ import annotations

from fusec.codegen.cuda.block_products import accumulate_tile
from fusec.codegen.cuda.gemm_products import Products
from fusec.codegen.cuda.shape import TILE_WARPS, column_parts
from fusec.codegen.formats.tiles import CHUNK

LANES = 32


class ByRows(Products):
    """As `matvec` does: a leaf is a lane's, and has one sum.

    Lane b mod 32 has block b, in increasing order; products, then minima, are added to its sum.
    """

    product = "products"

    def _find_order(self) -> None:
        """See `Products`."""
        self.leaves, self.share = LANES, -(-self.blocks // LANES)
        minima = 2 if self.fmt.has_min else 1
        self.of_weights = self.halves * minima
        self.of_vector = self.halves * minima if minima > 1 else 1

    def _part_of_leaf(self, most: int) -> int:
        """See `Products`: parts as equal as can be."""
        return -(-self.share // -(-self.share // most))

    def block_of(self, leaf: str, index: str) -> str:
        """See `Products`."""
        return leaf if self.share == 1 else f"uint32({leaf} + {index} * {LANES})"

    def columns_behind(self, leaf: int, index: int) -> int:
        """See `Slabs`."""
        return leaf + index * LANES

    def _blocks_of(self, leaf: int) -> int:
        """See `Products`."""
        return max(0, -(-(self.blocks - leaf) // LANES))

    def _begin(self) -> None:
        """See `Products`."""
        for m, n in self.fragments:
            self.w.line(f"sum_{m}{n} = nothing")

    def _add(self, m: int, n: int) -> None:
        """See `Products`; as `block_products` does it for one row."""
        halves = range(self.halves) if self.halves > 1 else ("",)
        products = [f"product{half}_{m}{n}" for half in halves]
        weights = f"upper_{m}", f"lower_{m}"
        accumulate_tile(self.w, self.fmt, f"sum_{m}{n}", products, weights, ("first", "second"))

    def _end(self, part: int) -> None:
        """See `Products`: there is but one sum."""

    def _end_part(self) -> None:
        """See `Products`: nothing."""


class ByTiles(Products):
    """As `tiles` and `tile_products` do: a leaf is a warp's, and has a sum for each of four lanes.

    Warp w of 16 has chunks w, w + 16, ... of four blocks; where a row is summed up in two halves,
    those of the second are leaves 16 to 31. What lanes of the one-row kernel have, each for its
    digit, is here in one thread: with one scale a block, the sums `middle`, `high` and `low` (the
    fourth lane has the low digit as well, but its place value is 0); with one for each half of a
    block, `upper` (middle + 256 high) and `low` of both halves.

    Minima are summed up behind a slab's products, lane by lane: where a slab has whole leaves, a
    thread needs registers for those of one lane only.
    """

    product = "signed_products"

    def _find_order(self) -> None:
        """See `Products`."""
        self.parts = column_parts(self.weight)
        self.leaves = TILE_WARPS * self.parts
        self.share = self.blocks // self.leaves
        self.of_weights, self.of_vector = self.halves, 1
        if self.halves == 1:
            self.lanes = [("middle", 256), ("high", 65536), ("low", 1), ("low", 0)]
        else:
            self.lanes = [("upper0", 256), ("low0", 1), ("upper1", 256), ("low1", 1)]
        self.with_minima = range(CHUNK // self.halves if self.fmt.has_min else 0)  # of the lanes

    def _part_of_leaf(self, most: int) -> int:
        """See `Products`: whole chunks, as many in each part."""
        chunks = self.share // CHUNK
        each = max(n for n in range(1, max(1, most // CHUNK) + 1) if chunks % n == 0)
        return CHUNK * each

    def block_of(self, leaf: str, index: str) -> str:
        """See `Products`."""
        if self.leaves * CHUNK == self.blocks:
            return f"uint32({leaf} * {CHUNK} + {index})"
        chunk = leaf
        if self.parts > 1:
            half, warp = f"({leaf} // uint32({TILE_WARPS}))", f"({leaf} & uint32({TILE_WARPS - 1}))"
            chunk = f"{half} * {self.blocks // CHUNK // self.parts} + {warp}"
        turn, inside = f"({index} // uint32({CHUNK}))", f"({index} & uint32({CHUNK - 1}))"
        return f"uint32(({chunk} + {turn} * {TILE_WARPS}) * {CHUNK} + {inside})"

    def columns_behind(self, leaf: int, index: int) -> int:
        """See `Slabs`."""
        turn, inside = divmod(index, CHUNK)
        return (leaf + turn * TILE_WARPS) * CHUNK + inside

    @property
    def fetch(self) -> str:
        """See `Products`."""
        return f"gather_{self.fmt.name}"

    def _begin(self) -> None:
        """See `Products`."""
        for m, n in self.fragments:
            for name in dict.fromkeys(name for name, _ in self.lanes):
                self.w.line(f"{name}_{m}{n} = nothing")
        if self.turns > 1:
            for t in self.with_minima:
                self._no_minima(t)

    def _add(self, m: int, n: int) -> None:
        """See `Products`."""
        if self.halves == 1:
            self.w.line(f"scale = scales_of(upper_{m}, lower_{m}, first, second)")
            for name, digit in (("middle", 1), ("high", 2), ("low", 0)):
                self._add_to(f"{name}_{m}{n}", f"floats(product_{m}{n}[{digit}])")
            return
        for half in (0, 1):
            scales = f"upper_{m}[{half}], lower_{m}[{half}]"
            self.w.line(f"scale = scales_of({scales}, first, second)")
            product = f"product{half}_{m}{n}"
            self._add_to(f"upper{half}_{m}{n}", f"two_floats({product}[1], {product}[2])")
            self._add_to(f"low{half}_{m}{n}", f"floats({product}[0])")

    def _add_to(self, name: str, product: str) -> None:
        self.w.line(f"{name} = add_times({name}, {product}, scale)")

    def _end_part(self) -> None:
        """See `Products`: minima."""
        for t in self.with_minima:
            self._add_minima(t, 0)

    def _end(self, part: int) -> None:
        """See `Products`: each lane's sum times what its digit is worth, less its minima."""
        for t, (name, worth) in enumerate(self.lanes):
            if t in self.with_minima and self.turns == 1:
                self._no_minima(t)
                self._add_minima(t, part)
            for m, n in self.fragments:
                mn = f"{m}{n}"
                less = f"less{t}_{mn}" if t in self.with_minima else "nothing"
                self.w.line(f"lane{t}_{mn} = of_lane({name}_{mn}, float32({worth}), {less})")
                if t == 1:
                    self.w.line(f"sum_{mn} = add_four(lane0_{mn}, lane1_{mn})")
                if t == 3:
                    rest = f"add_four(lane2_{mn}, lane3_{mn})"
                    self.w.line(f"sum_{mn} = add_four(sum_{mn}, {rest})")

    def _no_minima(self, t: int) -> None:
        for m, n in self.fragments:
            self.w.line(f"less{t}_{m}{n} = nothing")

    def _add_minima(self, t: int, part: int) -> None:
        """To those of lane t: of every fourth block behind `part` + t (every second, of halves)."""
        add, known = ("add_half_minima", 4) if self.halves > 1 else ("add_minima", 2)
        for block in range(t, self.per, len(self.with_minima)):
            for m in range(self.tiling.high):
                self._load_weights(m, part + block, self.halves, self.halves)
            for n in range(self.tiling.wide):
                self._load_vector(n, part + block, known)
                for m in range(self.tiling.high):
                    less = f"less{t}_{m}{n}"
                    self.w.line(f"{less} = {add}({less}, upper_{m}, lower_{m}, first, second)")
