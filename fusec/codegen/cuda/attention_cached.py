"""What lanes read of keys, values and queries in attention, and their products.

Eight lanes share a cached row; a warp's four groups of eight take its 16 positions in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.head_prologue import HeadPrologue
from fusec.codegen.cuda.scope import PAGES
from fusec.codegen.cuda.shape import CHUNK
from fusec.ir.graph import Node, Value
from fusec.ir.op_attention import query_of_values
from fusec.ir.pages import PAGE

ROWS = CHUNK // 4  # rows that a group of eight lanes takes
ZEROS = {2: "(float32(0), float32(0))", 4: "(float32(0), float32(0), float32(0), float32(0))"}
ZEROS[8] = f"({ZEROS[4]}, {ZEROS[4]})"


@dataclass(frozen=True)
class Pieces:
    """Rows of `size` elements for eight lanes: each has up to `parts` pieces of `piece` elements.

    `tag`: what tells the names of their variables from others.
    """

    size: int
    tag: str = ""

    @property
    def piece(self) -> int:
        """Elements that a lane takes at once."""
        return next(n for n in (8, 4, 2) if self.size % n == 0)

    @property
    def parts(self) -> int:
        """Pieces of a lane."""
        return -(-self.size // (8 * self.piece))

    def is_ragged(self, c: int) -> bool:
        """Whether some lanes have nothing of part c."""
        return 8 * (c + 1) * self.piece > self.size


class CachedRows:
    """The reading part of a segment of role 'heads'.

    Scores are the sum of `products`: rows of a cache ("k", or also "v") times a query. `held`:
    registers that keys and values may fill before the query is known; where they do not fit, they
    are read when they are used, and in a loop if addresses would fill the registers too. What the
    block made itself, `own`, is read from shared memory; the caches have no such rows yet.
    """

    def __init__(self, alike: Alike, node: Node, held: int, own: HeadPrologue) -> None:
        self.own = own
        self.alike, self.scope = alike, alike.scope
        self.w, self.node = alike.scope.w, node
        self.q, self.k, self.v, self.pos = node.inputs[:4]
        self.heads, self.kv_heads = int(node["heads"]), int(node["kv_heads"])
        self.window, self.head_dim = int(node["window"]), self.v.shape[-1]
        self.page = f"page_row({PAGES}, start, {PAGE})"  # expression of its first row
        self.value_pieces = self.key_pieces = Pieces(self.head_dim)
        self.products = [("k", self.q)]
        if (of_values := query_of_values(node)) is not None:
            self.key_pieces = Pieces(self.k.shape[-1], "k")
            self.products.append(("v", of_values))
        words = sum(x.parts * x.piece for x in (self.key_pieces, self.value_pieces))
        self.rows_held = words * ROWS // (1 if self.v.dtype == "f32" else 2)
        self.held = self.rows_held <= held
        self.looped = not self.held and len(self.products) > 1

    def _offsets(self) -> None:
        """Where this lane's parts of rows begin."""
        for x in dict.fromkeys((self.key_pieces, self.value_pieces)):
            for c in range(0 if self.looped else x.parts):
                self._offset(x, c, f"uint32({8 * c})")

    def _offset(self, x: Pieces, c: int, lanes: str) -> None:
        """Where this lane's part c of a row begins, so many lanes behind its first."""
        offset, inside = f"offset{x.tag}{c}", f"inside{x.tag}{c}"
        self.w.line(f"{offset} = uint32((member + {lanes}) * {x.piece})")
        if self._is_ragged(x, c):
            self.w.line(f"{inside} = {offset} < uint32({x.size})")
            self.w.line(f"{offset} = select_u32({inside}, {offset}, uint32(0))")

    def _is_ragged(self, x: Pieces, c: int) -> bool:
        """Whether some lanes have nothing of part c, or of the last one if a loop has them all."""
        return x.is_ragged(x.parts - 1 if self.looped else c)

    def _parts(self, x: Pieces) -> Iterator[tuple[int, str]]:
        """For each part of a row: the number of its variables, and how many lanes it is behind."""
        if not self.looped:
            yield from ((c, str(8 * c)) for c in range(x.parts))
            return
        with self.w.block(f"for turn in range({x.parts}):"):
            self._offset(x, 0, "turn * uint32(8)")
            yield 0, "turn * 8"

    def _pieces(self, cache: str) -> Pieces:
        """Those of a cache's rows."""
        return {"k": self.key_pieces, "v": self.value_pieces}[cache]

    def _products(self) -> None:
        """The group's rows times the queries, in two sums each."""
        w = self.w
        for t in range(ROWS):
            w.line(f"d{t} = {ZEROS[2]}")
        for cache, query in self.products:
            x = self._pieces(cache)
            for c, _ in self._parts(x):
                if not self.held:
                    w.line("warp_barrier()", "no more loads at once than there are registers")
                    self._query(cache, query, c)
                    self._read((cache, c))
                    self._renew((cache, c))
                for t in range(ROWS):
                    floats = self._floats(cache, t, c)
                    w.line(f"d{t} = dot_{x.piece}(d{t}, {floats}, q{x.tag}{c})")

    def _query(self, cache: str, query: Value, c: int) -> None:
        """Part c of a query, zeros where this lane has none."""
        x, offset = self._pieces(cache), f"offset{self._pieces(cache).tag}{c}"
        if self.own.query:
            loaded = f"own_f32_{x.piece}(uint32({self.own.query} + {offset} * 4))"
        else:
            place = f"uint32(head * {x.size} + {offset})"
            loaded = f"load_f32_{x.piece}({self.scope.pointers[query.name]}, {place})"
        if self._is_ragged(x, c):
            loaded = f"masked_{x.piece}(inside{x.tag}{c}, {loaded})"
        self.w.line(f"q{x.tag}{c} = {loaded}")

    def _rows(self, early: bool = False) -> None:
        """Where the group's rows in the caches begin; those behind the last one are that one.

        `early`: the last one may be in the page in front. Then they are any row of their own page,
        and what is read of them is not used.
        """
        last = "last"
        if self.own.fresh:
            self.w.line("older = uint32(max_u32(base, uint32(1)) - uint32(1))")
            last = "older"
        for t in range(ROWS):
            position = f"min_u32({self._position(t)}, {last})"
            row = f"{position} * {self.kv_heads} + moved"
            if early or self.own.fresh:
                row = f"row_in_page(of_page, {position}, {PAGE}) * {self.kv_heads} + kv_head"
            for x in dict.fromkeys((self.key_pieces, self.value_pieces)):
                self.w.line(f"row{x.tag}{t} = uint32(({row}) * {x.size})")

    def _find_page(self) -> None:
        """The first row, in the caches, of the page that this warp's chunk is in."""
        self.w.line(f"of_page = {self.page}")
        if not self.own.fresh:
            begin = f"start // uint32({PAGE}) * {PAGE}"
            self.w.line(f"moved = uint32((of_page - {begin}) * {self.kv_heads} + kv_head)")

    def _position(self, t: int) -> str:
        """The group's t-th position, or the oldest one seen."""
        position = f"uint32(here + uint32({4 * t}))"
        return f"max_u32({position}, oldest)" if self.window else position

    def _keys_and_values(self, early: bool = False) -> None:
        """The whole rows. `early`: see `_rows`."""
        self._rows(early)
        self._read(*((cache, c) for cache in "kv" for c in range(self._pieces(cache).parts)))

    def _read(self, *parts: tuple[str, int]) -> None:
        """Parts of the rows in the caches; zeros where there are none but this step's own."""
        w = self.w
        with w.block("if some(base != uint32(0)):") if self.own.fresh else nullcontext():
            for cache, c in parts:
                x, pointer = self._pieces(cache), self.scope.pointers[self._cache(cache).name]
                for t in range(ROWS):
                    where = f"{pointer}, uint32(row{x.tag}{t} + offset{x.tag}{c})"
                    w.line(f"{cache}{t}_{c} = load_{self._kind(cache)}({where})")
        if self.own.fresh:
            with w.block("else:"):
                for cache, c in parts:
                    for t in range(ROWS):
                        w.line(f"{cache}{t}_{c} = none_{self._kind(cache)}()")

    def _renew(self, *parts: tuple[str, int]) -> None:
        """The same parts of rows that the block made itself, in the warps that have such rows."""
        if not self.own.fresh:
            return
        w = self.w
        with w.block(f"if some(base < uint32(start + uint32({CHUNK}))):"):
            for t in range(ROWS):
                w.line(f"position{t} = {self._position(t)}")
                w.line(f"is_own{t} = position{t} >= base")
            for cache, c in parts:
                kind, x = self._kind(cache), self._pieces(cache)
                for t in range(ROWS):
                    mine = (
                        f"own_{kind}({self.own.place(cache, f'position{t}', f'offset{x.tag}{c}')})"
                    )
                    if not self.scope.rows:  # there is one row
                        if t == 0:
                            w.line(f"own_piece = {mine}")
                        mine = "own_piece"
                    held = f"{cache}{t}_{c}"
                    w.line(f"{held} = either_{kind}(is_own{t}, {mine}, {held})")

    def _cache(self, cache: str) -> Value:
        return {"k": self.k, "v": self.v}[cache]

    def _kind(self, cache: str) -> str:
        """Type and elements of a piece."""
        return f"{self._cache(cache).dtype}_{self._pieces(cache).piece}"

    def _floats(self, cache: str, t: int, c: int) -> str:
        """A piece as floats."""
        name = f"{cache}{t}_{c}"
        return f"halves_{self._pieces(cache).piece}({name})" if self.k.dtype == "f16" else name
