"""IQ4_XS: IQ4_NL's levels in superblocks of eight groups, each with a 6-bit scale.

Layout of a block (ggml-common.h `block_iq4_xs`), 136 bytes:

    0  f16      d
    2  u16      bits 2g and 2g+1: the upper two bits of group g's scale
    4  u8[4]    nibble g (low first): the lower four bits of group g's scale
    8  u8[128]  16 bytes a group, packed as in IQ4_NL
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.formats import iq4_nl
from fusec.codegen.formats.base import Bytes, Floats, QuantFormat, f16_field
from fusec.ir.dtypes import DType

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features

GROUPS = np.arange(8, dtype=np.uint16)


def decode_scales(blocks: Bytes) -> NDArray[np.int8]:
    """The groups' scales, from -32 to 31, `int8[n, 8]`."""
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16) >> (2 * GROUPS) & 3
    low = np.repeat(blocks[:, 4:8], 2, axis=1) >> (GROUPS % 2 * 4) & 15
    return (low | high << 4).astype(np.int8) - np.int8(32)


class IQ4_XS(QuantFormat):
    """weight = d * (scale - 32) * LEVELS[index]."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        d = f16_field(blocks, 0) * decode_scales(blocks).astype(np.float32)
        return d[:, :, None] * iq4_nl.decode_levels(blocks[:, 8:].reshape(-1, 8, 16))

    def cuda_parts(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """See `QuantFormat.cuda_parts`: indices; scales as bytes; d."""
        flat = blocks.reshape(-1, self.dtype.block_bytes)
        indices = iq4_nl.cuda_selectors(flat[:, 8:].reshape(-1, 16))
        return indices, decode_scales(flat).view(np.uint8), flat[:, :2]

    def emit_scales(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_scales`. The product d * (scale - 32) is exact: 11 + 6 bits."""
        from fusec.codegen.cpu import simd

        block = blocks[0]
        d = simd.widen_f16(b, simd.load(b, block, simd.I16), features)
        i32 = simd.vec(simd.I32, 8)
        high = simd.splat(b, b.zext(simd.load(b, block, simd.I16, 2), simd.I32), 8)
        high = b.and_(b.lshr(high, simd.vector(simd.I32, range(0, 16, 2))), simd.const(i32, 3))
        low = simd.splat(b, simd.load(b, block, simd.I32, 4), 8)
        low = b.and_(b.lshr(low, simd.vector(simd.I32, range(0, 32, 4))), simd.const(i32, 15))
        scales = b.or_(low, b.shl(high, simd.const(i32, 4)))
        signed = b.sitofp(b.sub(scales, simd.const(i32, 32)), simd.vec(simd.F32, 8))
        return b.fmul(simd.splat(b, d, 8), signed)

    def emit_levels(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_levels`."""
        from fusec.codegen.cpu import simd

        packed = simd.load(b, block, simd.vec(simd.I8, 16), 8 + 16 * span)
        return iq4_nl.emit_levels(b, packed, features)

    def emit_floats(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> tuple[ir.Value, ir.Value]:
        """See `QuantFormat.emit_floats`."""
        from fusec.codegen.cpu import simd

        if not features.float_permute:
            return super().emit_floats(b, block, span, features)
        packed = simd.load(b, block, simd.vec(simd.I8, 16), 8 + 16 * span)
        return iq4_nl.emit_floats(b, packed, features)


FORMAT = IQ4_XS(DType("iq4_xs", 256, 136))
