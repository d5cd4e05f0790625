"""What a block that attends makes of its own head first: the query, and the rows it appends.

One warp makes the query, and two others the key and the value of the token; where a step has
several rows, one warp makes both, for each row that the block's own sees. Keys and values lie in
shared memory as the caches have them, and attention takes these rows from there: no block waits
until another one has written them. One of the blocks that make a key and a value writes them.

The rows of a step are at positions that follow one another; `base` is the first one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.prologue import NORMS_OF_HEADS
from fusec.codegen.cuda.rows import MANY
from fusec.codegen.cuda.scope import PAGES, words
from fusec.codegen.cuda.shape import WARP, units
from fusec.codegen.cuda.sources import Memory, Shared, Source
from fusec.errors import FusecError
from fusec.ir.graph import Node, Value
from fusec.ir.op_attention import head_sizes
from fusec.ir.op_norm import has_own_weights
from fusec.ir.ops import op, position_of
from fusec.ir.pages import PAGE
from fusec.ir.region import Segment

MOST_ROWS = MANY - 1  # of a step that has a layer of blocks for each


@dataclass(frozen=True)
class Chain:
    """Nodes that make a vector of heads of `size` elements, one after the other, out of `vector`.

    `store`: the append behind them, where that is a key or a value. `live`: the variable that says
    whether a warp makes a head of it, `head` the one with that head's number.
    """

    vector: Value
    nodes: tuple[Node, ...]
    size: int
    store: Node | None
    live: str

    @property
    def head(self) -> str:
        """See above."""
        return "head" if self.store is None else "kv_head"

    @property
    def first(self) -> str:
        """The head's first element among those of all heads."""
        return f"uint32({self.head} * {self.size})"


class HeadPrologue:
    """Emits the prologue of the attention `node`, which consists of `nodes`.

    `raw`: vectors of which the block has its head's elements already, in shared memory.
    `query`: where in shared memory the query is; empty where another kernel makes it. `fresh`: the
    same of the rows that the step appends to "k" and "v", one row behind the other.
    """

    def __init__(
        self, alike: Alike, node: Node, nodes: Sequence[Node], raw: Mapping[str, Shared]
    ) -> None:
        self.scope, self.w, self.node, self.raw = alike.scope, alike.scope.w, node, raw
        made = {n.outputs[0].name: n for n in nodes}
        self.rows = MOST_ROWS if self.scope.rows else 1
        if nodes and self.rows >= self.scope.geometry.warps:
            raise FusecError(
                f"{node.name}: expected steps of fewer rows than a block's "
                f"{self.scope.geometry.warps} warps, of which one makes the query and the others a "
                f"row each, found {self.rows}"
            )
        live = {"q": "makes_query", "k": "appends", "v": "appends"}
        if self.rows == 1:
            live["v"] = "appends_value"
        self.chains = {
            name: chain_of(made, value, size, live[name])
            for name, value, size in zip("qkv", node.inputs[:3], head_sizes(node), strict=True)
            if value.name in made
        }
        self.runs = {name: list(self._runs_of(name)) for name in self.chains}
        self.rooms = {name: self._rooms_of(name) for name in self.chains}
        self.query = self.rooms["q"][-1] if "q" in self.chains else ""
        if (query := raw.get(node.inputs[0].name)) is not None:
            self.query = query.address
        self.fresh = {
            name: self.scope.shared(f"fresh_{name}", self.width(name) * chain.size * self.rows)
            for name, chain in self.chains.items()
            if chain.store is not None
        }

    def _rooms_of(self, name: str) -> list[str]:
        """Where each run of a chain puts a head: never where the run in front of it did."""
        chain = self.chains[name]
        rows = 1 if chain.store is None else self.rows
        made = [
            self.scope.shared(f"own_{name}", 4 * chain.size * rows)
            for _ in range(min(2, len(self.runs[name])))
        ]
        return [made[k % 2] for k in range(len(self.runs[name]))]

    def width(self, name: str) -> int:
        """Bytes of an element of the cache "k" or "v"."""
        return 2 if self.node.inputs["qkv".index(name)].dtype == "f16" else 4

    def place(self, name: str, position: str, offset: str) -> str:
        """Where an element of the row at a position is; of one in front of `base`, anywhere."""
        row = ""
        if self.scope.rows:
            known = f"min_u32(max_u32({position}, base), last)"
            row = f"({known} - base) * {self.chains[name].size} + "
        return f"uint32({self.fresh[name]} + ({row}{offset}) * {self.width(name)})"

    # --- in front of the wait --------------------------------------------------------------------

    def load(self) -> None:
        """What a warp makes, and the loads for it that need nothing that this step computes."""
        w = self.w
        w.line("makes_query = warp == uint32(0)")
        if self.scope.rows:
            w.line("base = uint32(n - uint32(1) - row)", "where the rows of this step begin")
            w.line("its_row = min_u32(uint32(warp - uint32(1)), row)")
            w.line("appends = (warp > uint32(0)) & (warp <= uint32(row + uint32(1)))")
            w.line("now = select_u32(makes_query, uint32(n - uint32(1)), uint32(base + its_row))")
        else:
            w.line("base = uint32(n - uint32(1))", "where the rows of this step begin")
            w.line("appends, appends_value = warp == uint32(1), warp == uint32(2)")
            w.line("now = base")
        if self.fresh:
            w.line(f"its_place = cached_row({PAGES}, now, {PAGE})")
        for name, chain in self.chains.items():
            found = [elements for _, run in self.runs[name] for elements in run]
            if not found:
                continue
            with w.block(f"if some({chain.live}):"), self._weights_of(chain):
                for elements in found:
                    elements.indices.emit(w)
                    elements.fetch_weights()

    # --- behind it -------------------------------------------------------------------------------

    def emit(self, writes: str) -> None:
        """All of it, and a barrier. `writes`: the condition that the block writes to the caches."""
        w = self.w
        if "q" in self.chains:
            chain = self.chains["q"]
            with w.block(f"if some({chain.live}):"):
                self._make("q", chain)
        own = " & (its_row == row)" if self.scope.rows else ""
        for live, names in groupby(self.fresh, lambda name: self.chains[name].live):
            w.line(f"writes = {live} & ({writes}){own}")
            with w.block(f"if some({live}):"):
                for name in names:
                    self._append(name, self.chains[name])
        w.line("barrier()")

    def _append(self, name: str, chain: Chain) -> None:
        """A key or a value, two elements a lane: to shared memory, and to the cache."""
        w, store, pairs = self.w, chain.store, chain.size // 2
        assert store is not None
        source = self._make(name, chain)
        if isinstance(source, Shared):
            w.line("warp_barrier()")
        state, x = store.inputs[:2]
        row = f"uint32(its_place * {x.shape[-1]} + {chain.first})"
        w.line(f"cached = at({self.scope.pointers[state.name]}, {row})")
        w.line(f"kept = {self._at_row(self.fresh[name], self.width(name) * chain.size)}")
        for k in range(-(-pairs // WARP)):
            w.line(f"pair = uint32(lane + uint32({WARP * k}))")
            w.line(f"inside = pair < uint32({pairs})")
            w.line(f"even = uint32(min_u32(pair, uint32({pairs - 1})) * 2)")
            two = f"{source.element('even')}, {source.element('uint32(even + uint32(1))')}"
            live = f"{chain.live} & inside, writes & inside"
            w.line(f"append_{state.dtype}(kept, cached, even, {two}, {live})")

    def _at_row(self, address: str, nbytes: int) -> str:
        """Where in shared memory the row that a warp makes has its bytes."""
        return f"uint32({address} + its_row * {nbytes})" if self.scope.rows else address

    def _make(self, name: str, chain: Chain) -> Source:
        """A head of a chain's vector, by one warp."""
        w, source = self.w, self._source(chain)
        for room, (norm, run) in zip(self.rooms[name], self.runs[name], strict=True):
            if isinstance(source, Shared):
                w.line("warp_barrier()")
            place = room if chain.store is None else self._at_row(room, 4 * chain.size)
            if norm is not None:
                self._norm(norm, source, chain, place)
            for elements in run:
                elements.source = partial(_made, source)
                with self._weights_of(chain):
                    elements.fetch()
                elements.compute({}, into=place)
            source = Shared(place, chain.size)
        return source

    def _source(self, chain: Chain) -> Source:
        """Where a head of the chain's first vector is."""
        w, vector = self.w, chain.vector
        if (raw := self.raw.get(vector.name)) is not None:
            return raw
        pointer = self.scope.pointers[vector.name]
        if chain.store is not None and self.scope.rows:
            row = f"uint32(its_row * {words(vector)})"
            pointer = f"at({self.scope.pointer_of_first_row(vector)}, {row})"
        w.line(f"all_heads = {pointer}")
        w.line(f"own_head = at(all_heads, {chain.first})")
        return Memory("own_head", chain.size)

    def _norm(self, node: Node, source: Source, chain: Chain, room: str) -> None:
        """A head of a norm: of its own elements alone, or of those of all heads."""
        size = chain.size
        gain = self.scope.pointers[node.inputs[1].name]
        eps = f"float32({node['eps']!r})"
        if (call := NORMS_OF_HEADS.get(node.op)) is None:
            n = node.outputs[0].shape[-1]
            given = f"all_heads, {n}, own_head, at({gain}, {chain.first}), {size}, {room}"
            self.w.line(f"norm_part({given}, float32({1 / n!r}), {eps}, {chain.live})")
            return
        if has_own_weights(node):
            gain = f"at({gain}, {chain.first})"
        read = "own_head"
        if isinstance(source, Shared):
            call, read = f"{call}_shared", source.address
        given = f"{read}, {gain}, {size}, {room}, float32({1 / size!r}), {eps}, {chain.live}"
        self.w.line(f"{call}({given})")

    # --- element-wise nodes ----------------------------------------------------------------------

    def _runs_of(self, name: str) -> Iterator[tuple[Node | None, list[Elements]]]:
        """A chain's norms, and its other nodes by runs: for each unit that a lane has."""
        chain = self.chains[name]
        for is_norm, nodes in groupby(chain.nodes, lambda node: op(node.op).by_heads):
            if is_norm:
                yield from ((node, []) for node in nodes)
                continue
            run = tuple(nodes)
            count = units(Segment(run, chain.size))
            yield None, [self._unit(name, run, k, count) for k in range(-(-count // WARP))]

    def _unit(self, name: str, nodes: tuple[Node, ...], k: int, count: int) -> Elements:
        """The k-th unit of each lane; its variables have names of their own."""
        chain, tag = self.chains[name], f"{name}{k}"
        segment = Segment(_renamed(nodes, tag), chain.size)
        unit = f"uint32(lane + uint32({WARP * k}))"
        indices = Indices(segment, unit, count, f"i{tag}_")
        live = f"{chain.live} & ({unit} < uint32({count}))"
        elements = Elements(self.scope, segment, indices, live, _nowhere)
        for node in nodes:
            if (pos := position_of(node)) is not None:
                elements.positions[pos.name] = "now"
        return elements

    @contextmanager
    def _weights_of(self, chain: Chain) -> Iterator[None]:
        """Let weights of all heads' elements be found at those of the block's head."""
        kept = dict(self.scope.pointers)
        for node in chain.nodes:
            for value in node.weights:
                if op(node.op).role == "element":
                    pointer = f"at({kept[value.name]}, {chain.first})"
                    self.scope.pointers[value.name] = pointer
        yield
        self.scope.pointers.update(kept)


def chain_of(made: Mapping[str, Node], value: Value, size: int, live: str) -> Chain:
    """What makes a query, or a cache with what is appended; `made`: name -> the node that does."""
    nodes, vector = makers_of(made, value)
    store = nodes.pop() if op(nodes[-1].op).role == "store" else None
    return Chain(vector, tuple(nodes), size, store, live)


def makers_of(made: Mapping[str, Node], value: Value) -> tuple[list[Node], Value]:
    """The nodes that make a value, one after the other, and the vector that they make it of."""
    nodes: list[Node] = []
    while (maker := made.get(value.name)) is not None:
        nodes.insert(0, maker)
        value = next(v for v in maker.inputs if v.name[0] == "%" and v.dtype != "i32")
    return nodes, value


def _renamed(nodes: tuple[Node, ...], tag: str) -> tuple[Node, ...]:
    """The same nodes with a tag behind the names of what they make."""
    inside = {n.outputs[0].name for n in nodes}

    def named(value: Value) -> Value:
        return replace(value, name=f"{value.name}{tag}") if value.name in inside else value

    return tuple(
        replace(n, inputs=tuple(map(named, n.inputs)), outputs=tuple(map(named, n.outputs)))
        for n in nodes
    )


def _made(source: Source, _value: Value) -> Source:
    """Where the one vector is that a chain's next nodes read."""
    return source


def _nowhere(value: Value) -> Source:
    """The same before the nodes in front are made."""
    raise AssertionError(f"{value.name} is read before it is made")
