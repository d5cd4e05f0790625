"""Rows of matrices that ids choose, for products (`matvec`), and vectors that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.codegen import formats
from fusec.codegen.cuda.scope import Scope, identifier
from fusec.codegen.cuda.shape import terms
from fusec.codegen.cuda.sources import Source
from fusec.codegen.formats import FloatFormat
from fusec.errors import FusecError
from fusec.ir.graph import Node
from fusec.ir.op_experts import adds_experts
from fusec.ir.ops import picks_rows
from fusec.writer import Writer


class Experts:
    """Those products of a segment whose rows ids choose, where they lie in their matrices.

    Element i of a product with one vector is of the expert in slot i // rows. An element of a
    product with several parts of a vector has a term for each slot.
    """

    def __init__(self, scope: Scope, anchors: Sequence[Node]) -> None:
        self.scope = scope
        self.nodes = [node for node in anchors if picks_rows(node)]
        for node in self.nodes:
            weight = node.inputs[1]
            fmt = formats.get(weight.dtype)
            if isinstance(fmt, FloatFormat) and weight.shape[1] % fmt.cuda_chunk:
                raise FusecError(
                    f"{node.op} making {node.name}: expected rows of whole chunks of "
                    f"{fmt.cuda_chunk} elements, found {weight.type}"
                )

    def __bool__(self) -> bool:
        return bool(self.nodes)

    def choose(self, w: Writer) -> None:
        """Emit the first rows of the experts in all slots, for products that add them up."""
        first = {
            self._first(node, slot): (node, slot)
            for node in self.nodes
            if adds_experts(node)
            for slot in range(terms(node))
        }
        for name, (node, slot) in first.items():
            ids = self.scope.pointers[node.inputs[2].name]
            w.line(f"{name} = uint32(load_u32(at({ids}, uint32({slot}))) * {node['rows']})")

    @staticmethod
    def _first(node: Node, slot: int) -> str:
        """The variable with the first row of a slot's expert."""
        return f"first{slot}_of_{identifier(node.inputs[2])}_{node['rows']}"

    @staticmethod
    def _name(node: Node, row: str) -> str:
        """The variable of where a row of a product with one vector lies in its matrix."""
        return f"{row}_of_{identifier(node.inputs[2])}_{node['rows']}"

    def rows(self, w: Writer, row: str) -> None:
        """Emit where a row of the product lies, for those with one vector."""
        found = {self._name(n, row): n for n in self.nodes if not adds_experts(n)}
        for name, node in found.items():
            ids = self.scope.pointers[node.inputs[2].name]
            w.line(f"{name} = row_of_expert({ids}, {row}, {node['rows']})")

    def row(self, node: Node, row: str, slot: int) -> str:
        """Expression of the row of the whole matrix."""
        if adds_experts(node):
            return f"uint32({self._first(node, slot)} + {row})"
        return self._name(node, row)


@dataclass
class ExpertVectors(Source):
    """The vectors of `used` chosen experts, `rows` floats each, one after the other."""

    vectors: str
    ids: str
    rows: int
    used: int

    def __post_init__(self) -> None:
        self.n = self.used * self.rows

    @property
    def _given(self) -> str:
        return f"{self.vectors}, {self.ids}"

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"quad_of_experts({self._given}, {i}, {self.rows}, {self.n})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"element_of_experts({self._given}, {i}, {self.rows})"


@dataclass
class WeightedVectors(ExpertVectors):
    """Their sum, times weights."""

    weights: str

    def __post_init__(self) -> None:
        self.n = self.rows

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"quad_over_experts({self._given}, {self.weights}, {i}, {self.rows}, {self.used})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        given = f"{self._given}, {self.weights}, {i}, {self.rows}, {self.used}"
        return f"element_over_experts({given})"
