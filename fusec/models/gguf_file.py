"""An open GGUF file: typed metadata, weights as views of the mapped file, and clear errors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fusec.errors import FusecError
from fusec.models.gguf_metadata import MISSING, Kind
from fusec.models.gguf_parts import Part, open_parts
from fusec.models.names import located
from fusec.models.quant_bytes import Bytes
from fusec.writer import brief, count

SAMPLES, SAMPLE_BYTES = 64, 4096  # what the fingerprint reads of the weights


@dataclass(frozen=True, eq=False)
class Tensor:
    """One weight, still in its file.

    `shape` is in NumPy order, (rows, cols) for a matrix. `data` is a read-only view of the mapped
    file, uint8 of shape (*shape[:-1], bytes per row). `offset` is counted from the file's start.
    """

    name: str
    dtype: str  # GGML's name in lower case: 'f32', 'q8_0', 'iq4_nl', ...
    shape: tuple[int, ...]
    data: Bytes = field(repr=False)
    offset: int

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]")

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Some rows of it, or elements of a vector, under another name."""
        size = self.data.size // self.shape[0]
        data = self.data.reshape(self.shape[0], size)[first : first + count]
        shape = (count, *self.shape[1:])
        data = data.reshape(*shape[:-1], -1)
        return Tensor(name, self.dtype, shape, data, self.offset + first * size)

    def as_vector(self) -> Tensor:
        """All of its rows, one behind the other."""
        shape = (math.prod(self.shape),)
        return Tensor(self.name, self.dtype, shape, self.data.reshape(-1), self.offset)


class GGUFFile:
    """A model file: `metadata`, `tensors`, and look-ups that explain what is wrong.

    A model that was split over several files is one too: `path` is its first file, which has the
    metadata, and `paths` are all of them.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.path = parts[0].path
        self.paths = tuple(part.path for part in parts)
        self.file_bytes = sum(part.mapped.size for part in parts)
        self.metadata = parts[0].metadata
        self.tensors = {
            name: Tensor(
                name,
                extent.type.name.lower(),
                extent.shape,
                part.mapped[extent.start : extent.end].reshape(
                    *extent.shape[:-1], extent.row_bytes
                ),
                extent.start,
            )
            for part in parts
            for name, extent in part.layout.tensors.items()
        }
        self._parts = tuple(parts)

    def __repr__(self) -> str:
        parts = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        size = f"{self.file_bytes / 2**20:,.1f} MiB"
        return brief(self, f"{self.path}{parts}: {count(len(self.tensors), 'tensor')}, {size}")

    @property
    def architecture(self) -> str:
        """The model's `general.architecture`, such as 'llama'."""
        return self.get("general.architecture", str)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 that tells this model from another.

        Of each file of the model it covers the size, everything before the weights, and 64 evenly
        spread samples of 4 KiB of the weights, so it takes milliseconds at any size and is no
        defence against tampering.
        """
        digest = hashlib.sha256()
        for part in self._parts:
            size, header = part.mapped.size, part.layout.header_bytes
            digest.update(size.to_bytes(8, "little"))
            digest.update(part.mapped[:header].data)
            last = max(size - SAMPLE_BYTES, header)
            for start in np.linspace(header, last, SAMPLES).astype(np.int64):
                digest.update(part.mapped[start : start + SAMPLE_BYTES].data)
        return digest.hexdigest()

    def get(self, key: str, kind: type[Kind], default: Kind = MISSING) -> Kind:
        """The metadata value `key` as `kind`: see `Metadata.typed`."""
        return self.metadata.typed(key, kind, default)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> GGUFFile:
        """The same file, of whose weights these are views."""
        file = copy(self)
        file.tensors = dict(tensors)
        return file

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """The tensor of that name; with `shape`, checked to have it."""
        found = self.tensors.get(name)
        if found is None:
            raise FusecError(f"{self.path}: tensor '{name}' is missing")
        if shape is not None and found.shape != shape:
            raise FusecError(
                f"{self.path}: tensor '{name}' should have shape {shape}, found {found.shape}"
            )
        return found


def open_gguf(path: str | Path) -> GGUFFile:
    """Map a GGUF file and check its whole structure. A name is that model's file (`names`).

    The first file of a split model brings the others with it. Raises FusecError, naming the file
    and the fault, for anything that is not a complete model.
    """
    return GGUFFile(open_parts(located(Path(path))))
