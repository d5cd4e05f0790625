"""Q5_K: 5-bit levels in superblocks of eight groups, each with a 6-bit scale and a 6-bit minimum.

Layout of a block (ggml-common.h `block_q5_K`), 176 bytes:

    0   f16      d
    2   f16      dmin
    4   u8[12]   scales and minima, packed: see `k_scales`
    16  u8[32]   bit g of byte i: the fifth bit of element i of group g
    48  u8[128]  32 bytes for two groups: low nibbles the even group, high nibbles the odd one
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


def decode_k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """The eight scales and minima in `uint8[n, 12]`, each `float32[n, 8]`.

    As in ggml-quants.c `get_scale_min_k4`: bytes 0-3 hold scales 0-3 in their lower six bits, bytes
    4-7 minima 0-3. Bytes 8-11 hold the lower nibbles of scales 4-7 (low) and minima 4-7 (high);
    their upper two bits are the upper two bits of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = [first & 63, (third & 15) | (first >> 6 << 4)]
    minima = [second & 63, (third >> 4) | (second >> 6 << 4)]
    return np.hstack(scales).astype(np.float32), np.hstack(minima).astype(np.float32)


def emit_k_scales(b: ir.IRBuilder, block: ir.Value, part: int) -> ir.Value:
    """The eight scales (`part` 0) or minima (`part` 1) at byte 4 of a block, `<8 x float>`."""
    from fusec.codegen.cpu import simd

    i32 = simd.vec(simd.I32, 4)
    own = b.zext(simd.load(b, block, simd.vec(simd.I8, 4), 4 + 4 * part), i32)
    shared = b.zext(simd.load(b, block, simd.vec(simd.I8, 4), 12), i32)
    low = b.and_(own, simd.const(i32, 63))
    nibble = b.and_(b.lshr(shared, simd.const(i32, 4 * part)), simd.const(i32, 15))
    high = b.or_(nibble, b.shl(b.lshr(own, simd.const(i32, 6)), simd.const(i32, 4)))
    return b.sitofp(simd.concat(b, low, high), simd.vec(simd.F32, 8))


def decode_levels(blocks: Bytes) -> Bytes:
    """The levels, 0 to 31, `uint8[n, 8, 32]`."""
    pairs = blocks[:, 48:].reshape(-1, 4, 1, 32)
    low = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return low | fifth << 4


class Q5_K(QuantFormat):
    """weight = d * scale * level - dmin * minimum."""

    has_min = True

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        scales, minima = decode_k_scales(blocks[:, 4:16])
        levels = decode_levels(blocks).astype(np.float32)
        d, dmin = f16_field(blocks, 0) * scales, f16_field(blocks, 2) * minima
        return d[:, :, None] * levels - dmin[:, :, None]

    def cuda_parts(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """See `QuantFormat.cuda_parts`: low nibbles; fifth bits; scale and minimum; d and dmin.

        Bit w of byte j of the fifth bits belongs to element 4w + j.
        """
        flat = blocks.reshape(-1, self.dtype.block_bytes)
        levels = decode_levels(flat)
        fifth = np.packbits((levels >> 4).reshape(-1, 8, 8, 4), axis=2, bitorder="little")
        scales = np.stack(decode_k_scales(flat[:, 4:16]), axis=-1).astype(np.uint8)
        return pair_halves(levels & np.uint8(15)), fifth, scales, flat[:, :4]

    def emit_scales(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_scales`. The products are exact: 11 + 6 bits."""
        return self._scaled(b, blocks[0], 0, features)

    def emit_mins(
        self, b: ir.IRBuilder, blocks: Sequence[ir.Value], features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_mins`."""
        return self._scaled(b, blocks[0], 1, features)

    def _scaled(self, b: ir.IRBuilder, block: ir.Value, part: int, features: Features) -> ir.Value:
        from fusec.codegen.cpu import simd

        d = simd.widen_f16(b, simd.load(b, block, simd.I16, 2 * part), features)
        return b.fmul(simd.splat(b, d, 8), emit_k_scales(b, block, part))

    def emit_levels(
        self, b: ir.IRBuilder, block: ir.Value, span: int, features: Features
    ) -> ir.Value:
        """See `QuantFormat.emit_levels`."""
        from fusec.codegen.cpu import simd

        i8 = simd.vec(simd.I8, 32)
        nibbles = simd.load(b, block, i8, 48 + 32 * (span // 2))
        shifted = b.lshr(nibbles, simd.const(i8, span % 2 * 4))
        high = b.lshr(simd.load(b, block, i8, 16), simd.const(i8, span))
        fifth = b.shl(b.and_(high, simd.const(i8, 1)), simd.const(i8, 4))
        return b.or_(b.and_(shifted, simd.const(i8, 15)), fifth)


FORMAT = Q5_K(DType("q5_k", 256, 176))
