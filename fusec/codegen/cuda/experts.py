"""Rows of matrices that ids choose, for products (`matvec`), and vectors that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusec.codegen import formats
from fusec.codegen.cuda.scope import Scope, identifier
from fusec.codegen.cuda.shape import chunks, row_chunks
from fusec.codegen.cuda.sources import Source
from fusec.codegen.formats import FloatFormat
from fusec.errors import FusecError
from fusec.ir.graph import Node
from fusec.ir.ops import picks_rows
from fusec.writer import Writer


class Experts:
    """Those products of a segment whose rows ids choose, where they lie in their matrices.

    Element i of a product with one vector is of the expert in slot i // rows. A product with
    several parts of a vector has all slots in each row, chunk after chunk.
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

    @staticmethod
    def _by_chunks(node: Node) -> bool:
        """Whether a row's chunks are of different experts. (Where one is used, all is the same.)"""
        return node.outputs[0].shape[-1] == node["rows"]

    def _name(self, node: Node, variable: str) -> str:
        """The variable of where `variable`, a row or a chunk, lies in a node's matrix."""
        ids, rows, count = node.inputs[2], node["rows"], chunks(node.inputs[1])
        sizes = f"{rows}x{count}" if self._by_chunks(node) else str(rows)
        return f"{variable}_of_{identifier(ids)}_{sizes}"

    def rows(self, w: Writer, row: str) -> None:
        """Emit where a row of the product lies, for those with one vector."""
        for name, node in self._alike(row, by_chunks=False).items():
            ids = self.scope.pointers[node.inputs[2].name]
            w.line(f"{name} = row_of_expert({ids}, {row}, {node['rows']})")

    def chunk(self, w: Writer, chunk: str) -> None:
        """Emit the first row of a chunk's expert and the chunk's place in it, for the others."""
        for name, node in self._alike(chunk, by_chunks=True).items():
            ids, each = self.scope.pointers[node.inputs[2].name], chunks(node.inputs[1])
            last = f"min_u32({chunk}, uint32({row_chunks(node) - 1}))"
            given = f"{ids}, {last}, {node['rows']}, {each}"
            w.line(f"{name}, {name}_inside = chunk_of_expert({given})")

    def _alike(self, variable: str, by_chunks: bool) -> dict[str, Node]:
        """Name of a variable -> one of the nodes that it is for."""
        wanted = [node for node in self.nodes if self._by_chunks(node) == by_chunks]
        return {self._name(node, variable): node for node in wanted}

    def place(self, node: Node, row: str, chunk: str) -> tuple[str, str]:
        """The row of the whole matrix, and the chunk of that row."""
        if not self._by_chunks(node):
            count = chunks(node.inputs[1])
            return self._name(node, row), f"min_u32({chunk}, uint32({count - 1}))"
        name = self._name(node, chunk)
        return f"uint32({name} + {row})", f"{name}_inside"


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
