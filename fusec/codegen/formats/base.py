"""What a weight format is: its layout, its decoding in NumPy, and the code that reads its blocks.

A quantised row is a sequence of blocks. A block holds groups of elements that share a scale:

    weight = scale[group] * level - min[group]        (min only where the format has one)

`level` is a small integer. CPU emitters take an LLVM IR builder and the address of one block as it
lies in the file, and never read outside that block. For CUDA a matrix is repacked, without loss,
into parts that lanes load aligned; `fusec/codegen/cuda/lib/blocks.py` reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusec.errors import FusecError
from fusec.ir.dtypes import DType, register

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Format(ABC):
    """A storage format of weights. One instance per format lives in the registry."""

    dtype: DType
    quantized: bool

    def __init__(self, dtype: DType):
        self.dtype = register(dtype)

    @property
    def name(self) -> str:
        """The GGML type name in lower case."""
        return self.dtype.name

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` elements; a row is whole blocks."""
        if columns % self.dtype.block:
            raise FusecError(
                f"{self.name}: a row must be a multiple of {self.dtype.block} elements, "
                f"found {columns}"
            )
        return self.dtype.nbytes((columns,))

    def decode(self, data: Bytes) -> Floats:
        """Bytes `uint8[rows, row_bytes]` to `float32[rows, columns]`, bit-equal to gguf-py's."""
        rows, row_bytes = data.shape
        if row_bytes % self.dtype.block_bytes:
            raise FusecError(
                f"{self.name}: a row must be a multiple of {self.dtype.block_bytes} bytes, "
                f"found {row_bytes}"
            )
        blocks = np.ascontiguousarray(data).reshape(-1, self.dtype.block_bytes)
        # infinite scales and overflow are the file's business: the result says what it says
        with np.errstate(invalid="ignore", over="ignore"):
            return self.decode_blocks(blocks).reshape(rows, -1)

    @abstractmethod
    def decode_blocks(self, blocks: Bytes) -> Floats:
        """`uint8[n, block_bytes]` to float32 with n * block elements in order."""

    @abstractmethod
    def cuda_repack(self, data: Bytes) -> Bytes:
        """Bytes `uint8[rows, row_bytes]` of the file to one flat buffer for the CUDA kernels."""

    @abstractmethod
    def cuda_bytes(self, rows: int, columns: int) -> int:
        """Size of that buffer."""


class FloatFormat(Format):
    """A format of plain floats."""

    quantized = False

    @abstractmethod
    def emit_widen(self, b: ir.IRBuilder, bits: ir.Value, features: Features) -> ir.Value:
        """f32 lanes from the elements' bits, a vector of integers of the element's size."""

    @property
    def cuda_chunk(self) -> int:
        """Elements in the 16 bytes that a lane loads at a time."""
        return 16 // self.dtype.block_bytes

    def cuda_repack(self, data: Bytes) -> Bytes:
        """See `Format.cuda_repack`: rows are padded with zeros to whole chunks."""
        return np.pad(data, ((0, 0), (0, -data.shape[1] % 16))).reshape(-1)

    def cuda_bytes(self, rows: int, columns: int) -> int:
        """See `Format.cuda_bytes`."""
        return rows * -(-columns // self.cuda_chunk) * 16


class QuantFormat(Format):
    """A format of integer levels and scales.

    Elements come in spans of 32. `group` of them, 32 or 16, share a scale (and a minimum).
    """

    quantized = True
    has_min = False
    group = 32

    @property
    def spans(self) -> int:
        """Spans in a block."""
        return self.dtype.block // 32

    @abstractmethod
    def cuda_parts(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """`uint8[rows, n, block_bytes]` to the parts that follow one another in the buffer.

        Levels come first, then what a span of 32 has, then what a block has; each part is ordered
        by row.
        """

    def cuda_repack(self, data: Bytes) -> Bytes:
        """See `Format.cuda_repack`."""
        blocks = data.reshape(len(data), -1, self.dtype.block_bytes)
        return np.concatenate([part.reshape(-1) for part in self.cuda_parts(blocks)])

    def cuda_bytes(self, rows: int, columns: int) -> int:
        """See `Format.cuda_bytes`."""
        one = self.cuda_repack(np.zeros((1, self.dtype.block_bytes), np.uint8))
        return rows * (columns // self.dtype.block) * len(one)

    @abstractmethod
    def emit_scales(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """The scales of consecutive blocks, one f32 lane a group.

        Blocks of one span come one or several at a time; larger blocks come alone.
        """

    def emit_mins(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """The minima of those blocks, one f32 lane a group, where `has_min`."""
        raise TypeError(f"{self.name} has no minima")

    @abstractmethod
    def emit_levels(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> ir.Value:
        """The levels of elements `32 * span` to `32 * span + 31` in order, `<32 x i8>`."""

    def emit_floats(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> tuple[ir.Value, ir.Value]:
        """The same levels as floats, the first 16 and the last 16, `<16 x float>` each."""
        from fusec.codegen.cpu import simd

        levels = self.emit_levels(b, block, span, features)
        low, high = (simd.shuffle(b, levels, range(s, s + 16)) for s in (0, 16))
        floats = simd.vec(simd.F32, 16)
        return b.sitofp(low, floats), b.sitofp(high, floats)


def pair_halves(levels: Bytes) -> Bytes:
    """Nibbles `uint8[..., 32]` to `uint8[..., 16]`: element i low, element 16 + i high."""
    return levels[..., :16] | levels[..., 16:] << np.uint8(4)


def f16_field(blocks: Bytes, offset: int) -> Floats:
    """The f16 at byte `offset` of every block as `float32[n, 1]`."""
    field = np.ascontiguousarray(blocks[:, offset : offset + 2])
    return field.view(np.float16).astype(np.float32)
