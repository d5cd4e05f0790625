"""IQ4_NL: 4-bit indices into a table of 16 unevenly spaced levels, and an f16 scale.

Layout of a block (ggml-common.h `block_iq4_nl`), 18 bytes:

    0  f16     d
    2  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fusec.codegen.formats.base import Bytes, Floats, QuantFormat, f16_field
from fusec.ir.dtypes import DType

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features

# ggml-common.h `kvalues_iq4nl`
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def decode_levels(nibbles: Bytes) -> Floats:
    """Packed indices `uint8[..., 16]` to their levels, `float32[..., 32]`."""
    indices = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
    return np.array(LEVELS, np.float32)[indices]


def emit_levels(b: ir.IRBuilder, packed: ir.Value, features: Features) -> ir.Value:
    """Packed indices `<16 x i8>` to their levels, `<32 x i8>`."""
    from fusec.codegen.cpu import simd

    high = b.lshr(packed, simd.const(packed.type, 4))
    low = b.and_(packed, simd.const(packed.type, 15))
    return simd.lookup16(b, LEVELS, simd.concat(b, low, high), features)


def emit_floats(b: ir.IRBuilder, packed: ir.Value, features: Features) -> tuple[ir.Value, ir.Value]:
    """Packed indices `<16 x i8>` to their levels as floats, the low nibbles' and the high ones'."""
    from fusec.codegen.cpu import simd

    wide = b.zext(packed, simd.vec(simd.I32, 16))
    indices = b.and_(wide, simd.const(wide.type, 15)), b.lshr(wide, simd.const(wide.type, 4))
    low, high = (simd.lookup16_f32(b, LEVELS, index, features) for index in indices)
    return low, high


def cuda_selectors(nibbles: Bytes) -> Bytes:
    """Packed indices `uint8[..., 16]` in an order that makes them selectors of `prmt`.

    Of each four bytes the low nibbles come first, then the high ones: elements 4t to 4t + 3, then
    16 + 4t to 16 + 4t + 3.
    """
    fours = nibbles.reshape(*nibbles.shape[:-1], 4, 4)
    halves = np.concatenate([fours & 15, fours >> 4], axis=-1)
    return (halves[..., ::2] | halves[..., 1::2] << 4).reshape(nibbles.shape)


class IQ4_NL(QuantFormat):
    """weight = d * LEVELS[index]."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        return f16_field(blocks, 0) * decode_levels(blocks[:, 2:])

    def cuda_parts(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """See `QuantFormat.cuda_parts`: indices; d."""
        return cuda_selectors(blocks[:, :, 2:]), blocks[:, :, :2]

    def emit_scales(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_scales`."""
        from fusec.codegen.cpu import simd

        return simd.gather_f16(b, blocks, 0, features)

    def emit_levels(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_levels`."""
        from fusec.codegen.cpu import simd

        return emit_levels(b, simd.load(b, block, simd.vec(simd.I8, 16), 2), features)

    def emit_floats(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> tuple[ir.Value, ir.Value]:
        """See `QuantFormat.emit_floats`."""
        from fusec.codegen.cpu import simd

        if not features.float_permute:
            return super().emit_floats(b, block, span, features)
        return emit_floats(b, simd.load(b, block, simd.vec(simd.I8, 16), 2), features)


FORMAT = IQ4_NL(DType("iq4_nl", 32, 18))
