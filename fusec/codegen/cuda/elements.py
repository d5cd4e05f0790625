"""Element-wise work of a segment, for one element or for the pair that a rotation turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fusec.codegen.common import expression
from fusec.codegen.cuda.scope import PAGES, Scope, identifier
from fusec.ir.graph import Node, Value
from fusec.ir.op_matvec import factor_of
from fusec.ir.ops import op, position_of
from fusec.ir.pages import PAGE
from fusec.ir.region import Segment
from fusec.ir.tables import table_of
from fusec.writer import Writer


class HasElements(Protocol):
    """What reads vectors: `fusec.codegen.cuda.sources.Source`."""

    def element(self, i: str) -> str:
        """Expression of element `i`."""


@dataclass
class Indices:
    """The index `i` of a unit, or the indices `i0` and `i1` of a rotated pair, in variables.

    Their names begin with `letter`, so that a prologue's do not disturb a segment's.

    `limit`: the number of units, or a variable that has it; units beyond it read what unit
    `limit - 1` reads.
    """

    segment: Segment
    unit: str
    limit: int | str
    letter: str = "i"

    @property
    def names(self) -> tuple[str, ...]:
        """The variables."""
        return (f"{self.letter}0", f"{self.letter}1") if self.segment.rope else (self.letter,)

    def emit(self, w: Writer) -> None:
        """Compute them."""
        rope, i = self.segment.rope, self.letter
        if rope is None:
            w.line(f"{i} = min_u32({self.unit}, uint32({self.limit} - 1))")
            return
        pairs, half = int(rope["head_dim"]) // 2, int(rope["dims"]) // 2
        w.line(f"{i}_pair = min_u32({self.unit}, uint32({self.limit} - 1))")
        w.line(f"{i}_turn = {_remainder(f'{i}_pair', pairs)}", "pair within the head")
        if rope["pairing"] == "adjacent":
            w.line(f"{i}0 = uint32({i}_pair * 2)")
            w.line(f"{i}1 = uint32({i}0 + uint32(1))")
        else:  # halves: behind the rotary dims, neighbours pass through
            start, turn = f"uint32(({i}_pair - {i}_turn) * 2)", f"{i}_turn"
            turns = f"{i}_turns"
            w.line(f"{turns} = {turn} < uint32({half})")
            w.line(f"{i}0 = uint32({start} + select_u32({turns}, {turn}, uint32({turn} * 2)))")
            w.line(f"{i}1 = uint32({i}0 + select_u32({turns}, uint32({half}), uint32(1)))")


class Elements:
    """The element-wise nodes of a segment; loads and arithmetic are emitted apart.

    `live`: the condition under which a thread stores. `source` finds a vector of the kernel.
    """

    def __init__(
        self,
        scope: Scope,
        segment: Segment,
        indices: Indices,
        live: str,
        source: Callable[[Value], HasElements],
    ) -> None:
        self.scope, self.segment, self.indices = scope, segment, indices
        self.live, self.source = live, source
        self.inside = {n.name for n in segment.nodes}
        self.loaded: dict[tuple[str, str], str] = {}
        self.positions: dict[str, str] = {}
        self.cached: dict[str, str] = {}  # positions -> variable with the row in the caches
        self.looked_up: set[str] = set()  # nodes whose place in their table is loaded

    def fetch_weights(self) -> None:
        """Emit the loads that need no activations: weights, position, angles."""
        self._fetch(weights=True)

    def fetch_activations(self) -> None:
        """Emit the loads of what other kernels made, once it may be read."""
        for value in self.activations:
            self._load(value)

    @property
    def activations(self) -> list[Value]:
        """What other kernels made, and this segment's element-wise nodes read."""
        return [
            v
            for node in self.segment.nodes
            for v in element_operands(node)
            if not v.is_weight and v.name not in self.scope.region.producers
        ]

    def fetch(self) -> None:
        """Emit the loads, not emitted yet, of what comes from outside the segment."""
        self._fetch(weights=False)

    def _fetch(self, weights: bool) -> None:
        for node in self.segment.nodes:
            role = op(node.op).role
            for value in element_operands(node):
                if value.name not in self.inside and (value.is_weight or not weights):
                    self._load(value)
            if role == "rows":
                self._factor(node)
            if (pos := position_of(node)) is not None:
                self._position(pos)
                if role == "store":
                    self._cached_row(pos)
            if op(node.op).lookup and node.name not in self.looked_up:
                self.looked_up.add(node.name)
                (self._angle if role == "pair" else self._look_up)(node)

    def _load(self, value: Value) -> None:
        each = self.segment.size // value.shape[-1]  # elements that share one of the value's
        for i in self.indices.names:
            if (value.name, i) in self.loaded:
                continue
            name = self.loaded[value.name, i] = f"{identifier(value)}_{i}"
            place = f"uint32({i} // uint32({each}))" if each > 1 else i
            if value.is_weight:
                loaded = f"load_weight_f32(at({self.scope.pointers[value.name]}, {place}))"
            else:
                loaded = self.source(value).element(place)
            self.scope.w.line(f"{name} = {loaded}")

    def _factor(self, node: Node) -> None:
        """A matrix's own factor, where it has one."""
        value = factor_of(node)
        if value is not None and (value.name, "") not in self.loaded:
            name = self.loaded[value.name, ""] = f"{identifier(value)}_factor"
            self.scope.w.line(f"{name} = load_weight_f32({self.scope.pointers[value.name]})")

    def _position(self, pos: Value) -> None:
        if pos.name not in self.positions:
            name = self.positions[pos.name] = f"{identifier(pos)}_now"
            self.scope.w.line(f"{name} = load_u32({self.scope.pointers[pos.name]})")

    def _cached_row(self, pos: Value) -> None:
        if pos.name not in self.cached:
            name, position = f"{identifier(pos)}_row", self.positions[pos.name]
            self.cached[pos.name] = name
            self.scope.w.line(f"{name} = cached_row({PAGES}, {position}, {PAGE})")

    def _angle(self, node: Node) -> None:
        w, half = self.scope.w, int(node["dims"]) // 2
        table = self.scope.tables[table_of(node)]
        position, name = self.positions[node.inputs[1].name], node.name[1:]
        turn = f"{self.indices.letter}_turn"
        if 2 * half < int(node["head_dim"]):
            turn = f"min_u32({turn}, uint32({half - 1}))"
        w.line(f"angle = uint32(({position} * {half} + {turn}) * 2)")
        w.line(f"cos{name} = load_weight_f32(at({table}, angle))")
        w.line(f"sin{name} = load_weight_f32(at({table}, uint32(angle + uint32(1))))")

    def _look_up(self, node: Node) -> None:
        """What an element-wise node's table has at the token's position."""
        pos = position_of(node)
        assert pos is not None
        where = f"at({self.scope.tables[table_of(node)]}, {self.positions[pos.name]})"
        self.scope.w.line(f"{_found(node)} = load_weight_f32({where})")

    @property
    def result(self) -> str:
        """The variable with what the last node made."""
        return _scalar(self.segment.nodes[-1].name, self.indices.names[0])

    def begin_folds(self) -> None:
        """Emit what the folds start from: -inf, and what its index is where there is no more."""
        for node in self._folds:
            best = _best(node)
            self.scope.w.line(f"{best}, {best}_at = bits_f32(uint32(0xFF800000)), uint32(0)")

    def finish_folds(self, first: str, blocks: int | str) -> None:
        """Emit the folds over the block's threads; it is one of `blocks` from `first` on."""
        for node in self._folds:
            best, where = _best(node), ", ".join(self.scope.pointers[v.name] for v in node.outputs)
            block = f"uint32(block - {first})" if first != "0" else "block"
            room = self.scope.shared("room", 256)
            threads = self.scope.geometry.threads
            given = f"{where}, {block}, {blocks}, {node['parts']}, {threads}, {room}"
            self.scope.w.line(f"store_part({best}, {best}_at, {given})")

    @property
    def _folds(self) -> list[Node]:
        return [n for n in self.segment.nodes if op(n.op).role == "fold"]

    def compute(self, rows: Mapping[tuple[str, str], str], into: str = "") -> None:
        """Emit the arithmetic and the stores.

        `rows`: (matvec, index variable) -> the variable that has its sum. `into`: shared memory
        that takes the last node's results instead of the memory they are bound to.
        """
        w = self.scope.w

        def operand(value: Value, i: str) -> str:
            return _scalar(value.name, i) if value.name in self.inside else (
                self.loaded[value.name, i])  # fmt: skip

        def operands(node: Node, i: str) -> list[str]:
            return [_found(node) if v.dtype == "i32" else operand(v, i) for v in node.inputs]

        for node in self.segment.nodes:
            role = op(node.op).role
            if role == "pair":
                self._rotate(node, [operand(node.inputs[0], i) for i in self.indices.names])
            for i in self.indices.names:
                name = _scalar(node.name, i)
                if role == "store":
                    self._append(node, operand(node.inputs[1], i), i)
                elif role == "rows":
                    factor = factor_of(node)
                    scale = f" * {self.loaded[factor.name, '']}" if factor is not None else ""
                    w.line(f"{name} = {rows[node.name, i]}{scale}")
                elif role == "element":
                    w.line(f"{name} = {expression(node, operands(node, i))}")
                elif role == "fold":
                    best, x = _best(node), operand(node.inputs[0], i)
                    given = f"{x}, {i}, {self.live}, {best}, {best}_at"
                    w.line(f"{best}, {best}_at = better({given})")
                if into:
                    w.line(f"store_shared_f32_if(uint32({into} + {i} * 4), {name}, {self.live})")
                elif role not in ("store", "fold") and node.name in self.scope.outputs:
                    where = f"at({self.scope.pointers[node.name]}, {i})"
                    w.line(f"store_f32_if({where}, {name}, {self.live})")

    def _rotate(self, node: Node, pair: list[str]) -> None:
        """Both elements of a rotated pair; beyond the rotary dims they pass through."""
        (a, b), name = pair, node.name[1:]
        turned = f"{a} * cos{name} - {b} * sin{name}", f"{a} * sin{name} + {b} * cos{name}"
        for i, own, other in zip(self.indices.names, pair, turned, strict=True):
            whole = int(node["dims"]) == int(node["head_dim"])
            turns = f"{self.indices.letter}_turn < uint32({int(node['dims']) // 2})"
            result = other if whole else f"select_f32({turns}, {other}, {own})"
            self.scope.w.line(f"{_scalar(node.name, i)} = {result}")

    def _append(self, node: Node, element: str, i: str) -> None:
        """Write element i of a key or value at the token's position."""
        state, x, pos = node.inputs
        where = f"uint32({self.cached[pos.name]} * {x.shape[-1]} + {i})"
        where = f"at({self.scope.pointers[state.name]}, {where})"
        if state.dtype == "f16":
            self.scope.w.line(f"store_u16_if({where}, f32_to_half({element}), {self.live})")
        else:
            self.scope.w.line(f"store_f32_if({where}, {element}, {self.live})")


def element_operands(node: Node) -> tuple[Value, ...]:
    """What an element-wise node reads element by element."""
    inputs = tuple(v for v in node.inputs if v.dtype != "i32")
    read = {"element": inputs, "pair": inputs[:1], "store": inputs[1:2], "fold": inputs}
    return read.get(op(node.op).role, ())


def _scalar(name: str, i: str) -> str:
    return f"v{name[1:]}{i[1:] and '_' + i[1:]}"


def _found(node: Node) -> str:
    """The variable with what a node's table has."""
    return f"found{node.name[1:]}"


def _best(node: Node) -> str:
    """The variable with the best element of a fold so far; with `_at`, its index."""
    return f"best{node.name[1:]}"


def _remainder(value: str, divisor: int) -> str:
    if divisor & (divisor - 1) == 0:
        return f"uint32({value} & uint32({divisor - 1}))"
    return f"uint32({value} % uint32({divisor}))"
