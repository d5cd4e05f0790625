"""Walking a GGUF file from its magic to its last tensor, every count checked before it is believed.

The layout is that of the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md), versions 2
and 3, little-endian:

    "GGUF"  u32 version  u64 tensor_count  u64 key_count
    key_count    x  (string key, u32 type, value)
    tensor_count x  (string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset)
    padding to general.alignment, then the tensors' data at their offsets

A string is a u64 length and that many bytes of UTF-8; an array is a u32 type, a u64 length and the
items. The tables of types and block sizes are gguf-py's. Its `GGUFReader` is not used: it makes an
array object per element (2.7 s for a 49152-token vocabulary, 0.1 s here), and a damaged count sends
it off the end of the file. Here values are stepped over, and decoded when somebody asks for them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from fusec.errors import FusecError

VERSIONS = (2, 3)
MAX_DIMS = 4  # GGML_MAX_DIMS
DEFAULT_ALIGNMENT = 32
LENGTH = struct.Struct("<Q")  # in front of a string's bytes
KEY_MAX_BYTES, NAME_MAX_BYTES = 65535, 64  # both from the specification
# Models have some 50 keys, and some 50,000 tensors where every expert has its own. The objects for
# keys and tensors take more memory than the file does, so damaged counts are to end somewhere.
MAX_KEYS = MAX_TENSORS = 65536
KEY_MIN_BYTES = 8 + 4 + 1  # an empty key, its type, a one-byte value
TENSOR_MIN_BYTES = 8 + 4 + 8 + 4 + 8

SCALARS: dict[GGUFValueType, np.dtype[Any]] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
    GGUFValueType.BOOL: np.dtype("?"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value lies, or an array's items: bytes `start` to `end` of the file.

    Where each string of an array lies is not kept: to walk them again takes as long as to decode
    them, and to keep them could take more memory than they do.
    """

    type: GGUFValueType
    is_array: bool
    start: int
    end: int
    count: int

    def strings(self, view: memoryview) -> Iterator[tuple[int, int]]:
        """Where each string's bytes start and end."""
        at = self.start
        for _ in range(self.count):
            (size,) = LENGTH.unpack_from(view, at)
            at += LENGTH.size + size
            yield at - size, at


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor's data lies, in bytes from the file's start."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]  # NumPy order
    row_bytes: int
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """What a scan finds; `header_bytes` is the size of all that comes before the weights."""

    keys: dict[str, Span]
    tensors: dict[str, Extent]
    header_bytes: int


class _Cursor:
    """Reads forward through the mapped bytes and never past their end."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self.view = view
        self.at = 0

    def fail(self, problem: str) -> FusecError:
        return FusecError(f"{self.path}: {problem}")

    def skip(self, size: int, what: str) -> int:
        """Step over `size` bytes and return where they start."""
        start = self.at
        left = len(self.view) - start
        if size > left:
            raise self.fail(
                f"truncated: {what} at byte {start} needs {size} bytes, {left} are left"
            )
        self.at += size
        return start

    def number(self, code: str, what: str) -> int:
        layout = struct.Struct(code)
        return int(layout.unpack_from(self.view, self.skip(layout.size, what))[0])

    def count(self, what: str, bytes_each: int, limit: int | None = None) -> int:
        """A u64 count of things that take at least `bytes_each` bytes of what is left."""
        count = self.number("<Q", what)
        left = len(self.view) - self.at
        if count * bytes_each > left:
            raise self.fail(f"{what} is {count}, too many for the {left} bytes left in the file")
        if limit is not None and count > limit:
            raise self.fail(f"{what} is {count}, expected at most {limit}")
        return count

    def skip_strings(self, count: int) -> int:
        """Step over up to `count` strings that lie whole in the file; how many there were.

        A vocabulary has 100,000: this is a loop without words for what might be wrong.
        """
        at, end, length_at = self.at, len(self.view) - LENGTH.size, LENGTH.unpack_from
        for index in range(count):
            behind = at + LENGTH.size + length_at(self.view, at)[0] if at <= end else math.inf
            if behind > len(self.view):
                self.at = at
                return index
            at = int(behind)
        self.at = at
        return count

    def name(self, what: str, limit: int) -> str:
        """A string of 1 to `limit` bytes."""
        size = self.count(f"the length of {what}", 1)
        if not 1 <= size <= limit:
            raise self.fail(f"{what} is {size} bytes long, expected 1 to {limit}")
        start = self.skip(size, what)
        return decode_text(self.path, self.view[start : start + size], what)


def decode_text(path: Path, raw: memoryview, what: str) -> str:
    """UTF-8 bytes of the file as a string; `what` names them in the error."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise FusecError(f"{path}: {what} is not valid UTF-8") from None


def scan(path: Path, view: memoryview) -> Layout:
    """Walk the whole file. Raises FusecError at the first thing that is not as specified."""
    cursor = _Cursor(path, view)
    tensor_count, key_count = _read_header(cursor)
    keys = _read_keys(cursor, key_count)
    infos = {}
    for index in range(tensor_count):
        name = cursor.name(f"the name of tensor {index}", NAME_MAX_BYTES)
        if name in infos:
            raise cursor.fail(f"tensor {name!r} appears twice")
        infos[name] = _read_tensor_info(cursor, name)
    alignment = _alignment(cursor, keys)
    data_start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (kind, shape, offset) in infos.items():
        if offset % alignment:
            raise cursor.fail(f"tensor {name!r} has offset {offset}, not a multiple of {alignment}")
        tensors[name] = _place(cursor, name, kind, shape, data_start + offset)
    _refuse_overlap(cursor, tensors)
    return Layout(keys, tensors, cursor.at)


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """(tensor count, key count)."""
    magic = bytes(cursor.view[:4])
    if magic != b"GGUF":
        raise cursor.fail(f"not a GGUF file: it starts with {magic!r}, expected b'GGUF'")
    cursor.skip(4, "the magic")
    version = cursor.number("<I", "the version")
    if version & 0xFFFF == 0:
        raise cursor.fail("big-endian GGUF is not supported")
    if version not in VERSIONS:
        raise cursor.fail(f"GGUF version {version} is not supported, expected 2 or 3")
    tensor_count = cursor.count("the tensor count", TENSOR_MIN_BYTES, MAX_TENSORS)
    return tensor_count, cursor.count("the metadata key count", KEY_MIN_BYTES, MAX_KEYS)


def _read_keys(cursor: _Cursor, count: int) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    for index in range(count):
        key = cursor.name(f"metadata key {index}", KEY_MAX_BYTES)
        if key in spans:
            raise cursor.fail(f"metadata key {key!r} appears twice")
        kind = _value_type(cursor, key)
        is_array = kind is GGUFValueType.ARRAY
        if is_array:
            kind = _value_type(cursor, key)
            if kind is GGUFValueType.ARRAY:
                raise cursor.fail(f"metadata key {key!r} is an array of arrays, not supported")
        spans[key] = _skip_value(cursor, key, kind, is_array)
    return spans


def _value_type(cursor: _Cursor, key: str) -> GGUFValueType:
    raw = cursor.number("<I", f"the type of {key!r}")
    try:
        return GGUFValueType(raw)
    except ValueError:
        raise cursor.fail(f"metadata key {key!r} has unknown type {raw}") from None


def _skip_value(cursor: _Cursor, key: str, kind: GGUFValueType, is_array: bool) -> Span:
    what = f"the value of {key!r}"
    item_bytes = 8 if kind is GGUFValueType.STRING else SCALARS[kind].itemsize
    count = cursor.count(f"the length of {key!r}", item_bytes) if is_array else 1
    start = cursor.at
    if kind is GGUFValueType.STRING:
        for _ in range(count - cursor.skip_strings(count)):
            cursor.skip(cursor.count(f"the length of {what}", 1), what)
    else:
        cursor.skip(count * item_bytes, what)
    return Span(kind, is_array, start, cursor.at, count)


def _alignment(cursor: _Cursor, keys: dict[str, Span]) -> int:
    span = keys.get("general.alignment")
    if span is None:
        return DEFAULT_ALIGNMENT
    dtype = SCALARS.get(span.type)
    if dtype is None or dtype.kind not in "iu" or span.is_array:
        raise cursor.fail("metadata key 'general.alignment' should be a whole number")
    value = int(np.frombuffer(cursor.view, dtype, 1, span.start)[0])
    if value < 1 or value & (value - 1):
        raise cursor.fail(f"general.alignment is {value}, expected a power of two")
    return value


def _read_tensor_info(
    cursor: _Cursor, name: str
) -> tuple[GGMLQuantizationType, tuple[int, ...], int]:
    """(type, shape in NumPy order, offset from the start of the data)."""
    rank = cursor.number("<I", f"the rank of tensor {name!r}")
    if not 1 <= rank <= MAX_DIMS:
        raise cursor.fail(f"tensor {name!r} has {rank} dimensions, expected 1 to {MAX_DIMS}")
    # GGUF lists the fastest-running dimension first; NumPy lists it last.
    sizes = [cursor.number("<Q", f"the shape of tensor {name!r}") for _ in range(rank)]
    shape = tuple(reversed(sizes))
    raw = cursor.number("<I", f"the type of tensor {name!r}")
    try:
        kind = GGMLQuantizationType(raw)
    except ValueError:
        raise cursor.fail(f"tensor {name!r} has unknown type {raw}") from None
    return kind, shape, cursor.number("<Q", f"the offset of tensor {name!r}")


def _place(
    cursor: _Cursor, name: str, kind: GGMLQuantizationType, shape: tuple[int, ...], start: int
) -> Extent:
    """A tensor's bytes, checked to be whole blocks and inside the file."""
    if 0 in shape:
        raise cursor.fail(f"tensor {name!r} has an empty dimension in its shape {shape}")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise cursor.fail(
            f"tensor {name!r} has rows of {shape[-1]} elements, not a multiple of "
            f"the {kind.name} block of {block}"
        )
    row_bytes = shape[-1] // block * block_bytes
    end = start + math.prod(shape[:-1]) * row_bytes
    if end > len(cursor.view):
        raise cursor.fail(
            f"tensor {name!r} takes bytes {start} to {end}, past the end of the file "
            f"({len(cursor.view)} bytes)"
        )
    return Extent(kind, shape, row_bytes, start, end)


def _refuse_overlap(cursor: _Cursor, tensors: dict[str, Extent]) -> None:
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    for (first, extent), (second, after) in pairwise(ordered):
        if extent.end > after.start:
            raise cursor.fail(f"tensors {first!r} and {second!r} overlap")
