"""An open GGUF file: typed metadata, weights as views of the mapped file, and clear errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from gguf.constants import GGUFValueType

from fusec.errors import FusecError
from fusec.models.gguf_scan import SCALARS, Span, decode_text, scan
from fusec.models.shipped import located

Bytes = npt.NDArray[np.uint8]
Kind = TypeVar("Kind", str, int, float, bool, list[Any])

SAMPLES, SAMPLE_BYTES = 64, 4096  # what the fingerprint reads of the weights

MISSING: Final[Any] = object()


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


class Metadata(Mapping[str, Any]):
    """The file's keys and values; a value is decoded when first looked at."""

    def __init__(self, path: Path, view: memoryview, spans: dict[str, Span]) -> None:
        self._path = path
        self._view = view
        self._spans = spans
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            values = self._decode(key, self._spans[key])
            self._decoded[key] = values if self._spans[key].is_array else values[0]
        return self._decoded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def type_of(self, key: str) -> tuple[GGUFValueType, bool]:
        """The type of a value, or of an array's items, and whether it is an array."""
        span = self._spans[key]
        return span.type, span.is_array

    def _decode(self, key: str, span: Span) -> list[Any]:
        if span.type is not GGUFValueType.STRING:
            dtype = SCALARS[span.type]
            return np.frombuffer(self._view, dtype, span.count, span.start).tolist()
        what = f"a string of '{key}'"
        starts = (span.start, *(end + 8 for end in span.ends))  # a u64 length lies between
        return [
            decode_text(self._path, self._view[start:end], what)
            for start, end in zip(starts, span.ends, strict=False)
        ]


class GGUFFile:
    """A model file: `metadata`, `tensors`, and look-ups that explain what is wrong."""

    def __init__(self, path: Path, mapped: Bytes) -> None:
        layout = scan(path, mapped.data)
        self.path = path
        self.file_bytes = mapped.size
        self.metadata = Metadata(path, mapped.data, layout.keys)
        self.tensors = {
            name: Tensor(
                name,
                extent.type.name.lower(),
                extent.shape,
                mapped[extent.start : extent.end].reshape(*extent.shape[:-1], extent.row_bytes),
                extent.start,
            )
            for name, extent in layout.tensors.items()
        }
        self._mapped = mapped
        self._header_bytes = layout.header_bytes

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.tensors)} tensors)"

    @property
    def architecture(self) -> str:
        """The model's `general.architecture`, such as 'llama'."""
        return self.get("general.architecture", str)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 that tells this model from another.

        It covers the size, everything before the weights, and 64 evenly spread samples of 4 KiB of
        the weights, so it takes milliseconds at any size and is no defence against tampering.
        """
        digest = hashlib.sha256(self.file_bytes.to_bytes(8, "little"))
        digest.update(self._mapped[: self._header_bytes].data)
        last = max(self.file_bytes - SAMPLE_BYTES, self._header_bytes)
        for start in np.linspace(self._header_bytes, last, SAMPLES).astype(np.int64):
            digest.update(self._mapped[start : start + SAMPLE_BYTES].data)
        return digest.hexdigest()

    def get(self, key: str, kind: type[Kind], default: Kind = MISSING) -> Kind:
        """The metadata value `key` as `kind` (str, int, float, bool or list).

        A whole number is accepted where a float is wanted. Raises FusecError for a value of
        another type, and for a missing key unless a default is given.
        """
        if key not in self.metadata:
            if default is MISSING:
                raise FusecError(f"{self.path}: metadata key '{key}' is missing")
            return default
        value = self.metadata[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise FusecError(
                f"{self.path}: metadata key '{key}' should be {kind.__name__}, "
                f"found {type(value).__name__}"
            )
        return value

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
    """Map a GGUF file and check its whole structure. The name of a shipped model is its file.

    Raises FusecError, naming the file and the fault, for anything that is not a complete GGUF file.
    """
    path = Path(path)
    try:
        path = located(path)
        if not path.exists():
            raise FusecError(f"{path}: no such file")
        if not path.is_file():
            raise FusecError(f"{path}: not a file")
        if path.stat().st_size == 0:
            raise FusecError(f"{path}: the file is empty")
        mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {error.strerror}") from error
    return GGUFFile(path, mapped)
