"""Q6_K: 6-bit levels in superblocks of sixteen groups of 16, each with a signed 8-bit scale.

Layout of a block (ggml-common.h `block_q6_K`), 210 bytes:

    0    u8[128]  low nibbles: byte 64h + 32p + i has element 128h + 32p + i (low) and the one 64
                  behind it (high), for h, p in 0, 1 and i < 32
    128  u8[64]   upper two bits: bits 2k of byte 32h + i belong to element 128h + 32k + i
    192  i8[16]   scales
    208  f16      d
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fusec.codegen.formats.base import Bytes, Floats, QuantFormat, f16_field, pair_halves
from fusec.ir.dtypes import DType

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features


def decode_levels(blocks: Bytes) -> Bytes:
    """The levels before 32 is taken off, `uint8[n, 8, 32]`."""
    pairs = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 2, 4, 32)
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shift & 3
    return (low | high << 4).reshape(-1, 8, 32)


class Q6_K(QuantFormat):
    """weight = d * scale * (level - 32)."""

    group = 16

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        levels = decode_levels(blocks).astype(np.float32) - np.float32(32)
        scales = f16_field(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
        return scales[:, :, None] * levels.reshape(-1, 16, 16)

    def cuda_parts(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """See `QuantFormat.cuda_parts`: low nibbles; upper two bits; scales; d.

        Bits 2k and 2k + 1 of byte 4h + j belong to element 16h + 4k + j. The upper one is flipped,
        which takes 32 off.
        """
        flat = blocks.reshape(-1, self.dtype.block_bytes)
        levels = decode_levels(flat)
        fours = ((levels >> 4) ^ 2).reshape(-1, 8, 2, 4, 4)
        shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
        upper = np.bitwise_or.reduce(fours << shift, axis=3)
        return pair_halves(levels & np.uint8(15)), upper, flat[:, 192:208], flat[:, 208:]

    def emit_scales(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_scales`. The product is exact: 11 + 7 bits."""
        from fusec.codegen.cpu import simd

        d = simd.widen_f16(b, simd.load(b, blocks[0], simd.I16, 208), features)
        scales = simd.load(b, blocks[0], simd.vec(simd.I8, 16), 192)
        return b.fmul(simd.splat(b, d, 16), b.sitofp(scales, simd.vec(simd.F32, 16)))

    def emit_levels(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_levels`."""
        from fusec.codegen.cpu import simd

        half, part = divmod(span, 4)
        i8 = simd.vec(simd.I8, 32)
        packed = simd.load(b, block, i8, 64 * half + 32 * (part % 2))
        low = b.and_(b.lshr(packed, simd.const(i8, part // 2 * 4)), simd.const(i8, 15))
        upper = b.lshr(simd.load(b, block, i8, 128 + 32 * half), simd.const(i8, 2 * part))
        high = b.shl(b.and_(upper, simd.const(i8, 3)), simd.const(i8, 4))
        return b.sub(b.or_(low, high), simd.const(i8, 32))


FORMAT = Q6_K(DType("q6_k", 256, 210))
