"""A block behind the layers that drafts (nextn, MTP): it guesses the token after the next one.

After DeepSeek-V3 (2024, section 2.2). Position by position, it joins the token that was chosen to
the hidden state that has chosen it; a layer like all others and an output matrix follow:

    x = e_proj(norm(embedding of the token)) + h_proj(norm(hidden state));  layer;  norm;  output

The hidden state is the one that goes into the output matrix, normed; that of the block takes its
place where the block goes on from its own guess. This is the layout that llama.cpp reads
(`src/models/glm4-moe.cpp` and `deepseek2.cpp` there, `graph_mtp`, pull requests 26534 and 24868).
In a file both projections are one matrix, `eh_proj`, whose first half of columns is for the
embedding; embedding, last norm and output matrix are the model's where the block has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.models.gguf_file import GGUFFile, Tensor

NEXTN = "nextn_predict_layers"
"""The key with the number of such blocks, which are the last."""

JOINED = "eh_proj"
OWN = {"embedding": "embed_tokens", "norm": "shared_head_norm", "head": "shared_head_head"}
"""What a block may have of its own -> its name in the block."""


def has_nextn(file: GGUFFile, block: int) -> bool:
    """Whether a block of a file drafts: others of it may have been left out by a converter."""
    return f"blk.{block}.nextn.{JOINED}.weight" in file.tensors


@dataclass(frozen=True)
class Nextn:
    """Names of tensors: `at` begins those of the block, `blk.N.nextn`."""

    at: str
    embedding: str
    norm: str
    head: str

    @classmethod
    def of(cls, file: GGUFFile, block: int, head: str) -> Nextn:
        """The one of a file's block. `head`: the model's output matrix.

        Raises FusecError where the block has no projection.
        """
        at = f"blk.{block}.nextn"
        if not has_nextn(file, block):
            raise FusecError(
                f"{file.path}: draft mtp: tensor '{at}.{JOINED}.weight' is missing: block {block} "
                f"has nothing that drafts tokens"
            )
        shared = {"embedding": "token_embd.weight", "norm": "output_norm.weight", "head": head}
        for part, own in OWN.items():
            if f"{at}.{own}.weight" in file.tensors:
                shared[part] = f"{at}.{own}.weight"
        return cls(at, **shared)

    @property
    def projections(self) -> tuple[str, str]:
        """The matrices of the embedding and of the hidden state, which are one in a file."""
        return f"{self.at}.e_proj.weight", f"{self.at}.h_proj.weight"

    def tensors(self, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of what stands in front of the block's layer."""
        for name in ("enorm", "hnorm"):
            yield f"{self.at}.{name}.weight", (width,)
        for name in self.projections:
            yield name, (width, width)


def taken_apart(file: GGUFFile, tensors: Mapping[str, Tensor], nextn: Nextn) -> dict[str, Tensor]:
    """`tensors` of a file, with both projections of the block as matrices of their own.

    Raises FusecError for one that is not twice as wide as it is tall.
    """
    found = dict(tensors)
    joined = found.pop(f"{nextn.at}.{JOINED}.weight")
    rows = joined.shape[0]
    if joined.shape != (rows, 2 * rows):
        raise FusecError(
            f"{file.path}: tensor {joined.name!r} should have shape {(rows, 2 * rows)}, found "
            f"{joined.shape}"
        )
    for n, name in enumerate(nextn.projections):
        found[name] = _columns(joined, name, n * rows, rows)
    return found


def _columns(tensor: Tensor, name: str, first: int, count: int) -> Tensor:
    """Some columns of a matrix: its bytes, where these are whole blocks of it, else as f32."""
    rows, kind = tensor.shape[0], dtype(tensor.dtype)
    shape, data = (rows, count), tensor.data.reshape(rows, -1)
    if first % kind.block == 0 and count % kind.block == 0:
        start, end = (n // kind.block * kind.block_bytes for n in (first, first + count))
        part = np.ascontiguousarray(data[:, start:end])
        return Tensor(name, tensor.dtype, shape, part, tensor.offset)
    floats = FORMATS[tensor.dtype].decode(data)[:, first : first + count]
    part = np.ascontiguousarray(floats, np.float32).view(np.uint8)
    return Tensor(name, "f32", shape, part, tensor.offset)
