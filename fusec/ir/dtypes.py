"""Element types: how many elements share a block, and how many bytes a block takes.

Plain types have blocks of one element. Quantised types are registered by their format (one file in
`fusec/codegen/formats`), under the GGML name in lower case; the IR knows their size and no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from fusec.errors import FusecError


@dataclass(frozen=True)
class DType:
    """An element type. `numpy` is None for types NumPy cannot hold as plain elements.

    `group`: rows of such a tensor come in whole groups of so many, used or not.
    """

    name: str
    block: int  # elements per block
    block_bytes: int
    numpy: np.dtype | None = None
    group: int = 1

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this type; rows (the last axis) are whole blocks."""
        rows = -(-math.prod(shape[:-1]) // self.group) * self.group
        return rows * (shape[-1] // self.block * self.block_bytes) if shape else self.block_bytes


_TABLE: dict[str, DType] = {}


def register(dtype: DType) -> DType:
    """Make a type known to the IR. Registering the same description again changes nothing."""
    known = _TABLE.setdefault(dtype.name, dtype)
    if known != dtype:
        raise FusecError(f"dtype {dtype.name} is registered as {known}; refused {dtype}")
    return known


def dtype(name: str) -> DType:
    """The registered type of that name. Raises FusecError for another."""
    if name not in _TABLE:  # the formats stand above the IR: they are registered on import
        import_module("fusec.codegen.formats")
    if name not in _TABLE:
        raise FusecError(f"unknown dtype '{name}': known are {', '.join(sorted(_TABLE))}")
    return _TABLE[name]


for _name, _kind in (
    ("f32", np.float32),
    ("f64", np.float64),
    ("f16", np.float16),
    ("i32", np.int32),
    ("i64", np.int64),
):
    register(DType(_name, 1, np.dtype(_kind).itemsize, np.dtype(_kind)))
register(DType("bf16", 1, 2))
