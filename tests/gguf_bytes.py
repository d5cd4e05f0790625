"""GGUF files byte by byte: also those that no writer makes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gguf import GGUFValueType as T

CODES = {
    **{T.UINT8: "B", T.INT8: "b", T.UINT16: "H", T.INT16: "h", T.UINT32: "I", T.INT32: "i"},
    **{T.UINT64: "Q", T.INT64: "q", T.FLOAT32: "f", T.FLOAT64: "d", T.BOOL: "B"},
}
INTEGERS = [T.UINT8, T.INT8, T.UINT16, T.INT16, T.UINT32, T.INT32, T.UINT64, T.INT64]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def scalar(kind: T, value: Any) -> bytes:
    return string(value) if kind is T.STRING else struct.pack(f"<{CODES[kind]}", value)


def key(name: str, kind: T, value: Any) -> bytes:
    """A key and its value; a list becomes an array of `kind`."""
    if isinstance(value, list):
        items = b"".join(scalar(kind, item) for item in value)
        return string(name) + u32(T.ARRAY) + u32(kind) + u64(len(value)) + items
    return string(name) + u32(kind) + scalar(kind, value)


def tensor_info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's entry; `shape` in the file's order, fastest dimension first."""
    dims = b"".join(u64(size) for size in shape)
    return string(name) + u32(len(shape)) + dims + u32(kind) + u64(offset)


def gguf(
    keys: Sequence[bytes] | None = None,
    tensors: Sequence[bytes] | None = None,
    data: bytes = b"",
    alignment: int = 32,
) -> bytes:
    keys, tensors = list(keys or []), list(tensors or [])
    head = b"GGUF" + u32(3) + u64(len(tensors)) + u64(len(keys)) + b"".join(keys + tensors)
    return head + bytes(-len(head) % alignment) + data


def with_weights(
    keys: Sequence[bytes], weights: Mapping[str, np.ndarray], alignment: int = 32
) -> bytes:
    """A file of f32 tensors, each at the next multiple of `alignment`."""
    infos, data = [], b""
    for name, array in weights.items():
        data += bytes(-len(data) % alignment)
        infos.append(tensor_info(name, array.shape[::-1], offset=len(data)))
        data += np.ascontiguousarray(array, np.float32).tobytes()
    return gguf(keys, infos, data, alignment)
