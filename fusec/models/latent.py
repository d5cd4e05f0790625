"""Multi-head latent attention in a model file: the hyperparameters, and a layer's tensors.

Keys and values of all heads are made of one vector a position (DeepSeek-V2). The graph caches that
vector, normed, and multiplies by the heads' matrices on the other side: `attn_k_b` makes a head's
query one of that vector, and `attn_v_b` makes the result a head's. A few elements of a query know
the position; the key that they meet is the same for all heads, and comes beside the vector.

In a file the rows of both kinds of elements are one matrix. In the graph they are two, as
`attn_q_plain` and `attn_q_turned`, and the heads' matrices are tall ones, head after head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.models.gguf_file import GGUFFile, Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Latent:
    """Sizes of latent attention, in elements."""

    heads: int
    rank: int  # of the vector that keys and values are made of
    query_rank: int  # of the one that queries are made of; 0: of the layer's input
    plain: int  # of a head's query: those that know no position
    turned: int  # those that do
    values: int  # of a head's result

    @property
    def queries(self) -> str:
        """The matrix in a file that makes queries."""
        return "attn_q_b" if self.query_rank else "attn_q"

    def tensors(self, width: int) -> Iterator[tuple[str, Shape]]:
        """(name in a layer, shape in the graph) of the tensors in a model of that width."""
        if self.query_rank:
            yield "attn_q_a", (self.query_rank, width)
            yield "attn_q_a_norm", (self.query_rank,)
        made_of = self.query_rank or width
        yield "attn_q_plain", (self.heads * self.plain, made_of)
        yield "attn_q_turned", (self.heads * self.turned, made_of)
        yield "attn_kv_a", (self.rank, width)
        yield "attn_k_turned", (self.turned, width)
        yield "attn_kv_a_norm", (self.rank,)
        yield "attn_k_b", (self.heads * self.rank, self.plain)
        yield "attn_v_b", (self.heads * self.values, self.rank)
        yield "attn_output", (width, self.heads * self.values)

    @property
    def packed(self) -> dict[str, tuple[str, str]]:
        """Matrices in a file -> those of the graph that have their rows."""
        return {
            self.queries: ("attn_q_plain", "attn_q_turned"),
            "attn_kv_a_mqa": ("attn_kv_a", "attn_k_turned"),
        }

    def shape_in_file(self, name: str, shape: Shape) -> Shape:
        """The shape that a matrix of the graph has in files: the heads' are stacked."""
        if name.endswith(("attn_k_b.weight", "attn_v_b.weight")):
            return (self.heads, shape[0] // self.heads, *shape[1:])
        return shape


def taken_apart(
    file: GGUFFile, tensors: Mapping[str, Tensor], latent: Latent, blocks: Iterable[int]
) -> dict[str, Tensor]:
    """`tensors` of a file, with those of attention in some blocks as the graph reads them.

    Rows that lie together and heads' matrices are views; queries are copied head by head. Where
    files have `attn_kv_b`, as they had before the heads' matrices were split, those of keys are
    also decoded, because they lie the other way. Raises FusecError for a tensor that is missing or
    has another shape.
    """
    found = dict(tensors)
    for layer in blocks:
        parts = _Layer(file, latent, f"blk.{layer}")
        made = parts.made()
        for name in parts.read:
            del found[name]
        found |= {tensor.name: tensor for tensor in made}
    return found


class _Layer:
    """A layer's tensors; `read`: those of the file that others are made of."""

    def __init__(self, file: GGUFFile, latent: Latent, at: str) -> None:
        self.file, self.latent, self.at = file, latent, at
        self.read: list[str] = []

    def made(self) -> list[Tensor]:
        """What the graph reads."""
        latent, heads = self.latent, self.latent.heads
        width = self.file.tensor(self._name("attn_kv_a_mqa")).shape[-1]
        both = self._matrix("attn_kv_a_mqa", latent.rank + latent.turned, width)
        rows = latent.plain + latent.turned
        queries = self._matrix(latent.queries, heads * rows, latent.query_rank or width)
        return [
            both.rows(self._name("attn_kv_a"), 0, latent.rank),
            both.rows(self._name("attn_k_turned"), latent.rank, latent.turned),
            self._of_heads(queries, "attn_q_plain", 0, latent.plain),
            self._of_heads(queries, "attn_q_turned", latent.plain, latent.turned),
            *self._of_keys_and_values(),
        ]

    def _of_keys_and_values(self) -> list[Tensor]:
        """The heads' matrices."""
        latent, heads = self.latent, self.latent.heads
        if self._name("attn_kv_b") not in self.file.tensors:
            return [
                self._matrix("attn_k_b", heads * latent.rank, latent.plain),
                self._matrix("attn_v_b", heads * latent.values, latent.rank),
            ]
        both = self._matrix("attn_kv_b", heads * (latent.plain + latent.values), latent.rank)
        keys = self._of_heads(both, "attn_k_b", 0, latent.plain)
        values = self._of_heads(both, "attn_v_b", latent.plain, latent.values)
        return [_across(keys, heads), values]

    def _name(self, tensor: str) -> str:
        return f"{self.at}.{tensor}.weight"

    def _matrix(self, name: str, rows: int, columns: int) -> Tensor:
        """A matrix of the file, or a stack of them as one."""
        tensor = self.file.tensor(self._name(name))
        self.read.append(tensor.name)
        *stack, last = tensor.shape
        if (math.prod(stack), last) != (rows, columns):
            raise FusecError(
                f"{self.file.path}: tensor {tensor.name!r} should have {rows} rows of {columns} "
                f"elements, found shape {tensor.shape}"
            )
        data = tensor.data.reshape(rows, -1)
        return Tensor(tensor.name, tensor.dtype, (rows, columns), data, tensor.offset)

    def _of_heads(self, tensor: Tensor, name: str, first: int, count: int) -> Tensor:
        """Some rows of each head, head after head."""
        heads = self.latent.heads
        data = tensor.data.reshape(heads, tensor.shape[0] // heads, -1)[:, first : first + count]
        shape = (heads * count, tensor.shape[1])
        data = data.reshape(heads * count, -1)
        return Tensor(self._name(name), tensor.dtype, shape, data, tensor.offset)


def _across(tensor: Tensor, heads: int) -> Tensor:
    """Each head's matrix with rows and columns exchanged, in f32."""
    floats: np.ndarray[Any, Any] = FORMATS[tensor.dtype].decode(tensor.data)
    turned = floats.reshape(heads, -1, tensor.shape[1]).transpose(0, 2, 1)
    data = np.ascontiguousarray(turned, np.float32).reshape(-1, turned.shape[2])
    return Tensor(tensor.name, "f32", data.shape, data.view(np.uint8), tensor.offset)
