"""BF16: the upper half of an IEEE binary32, little endian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusec.codegen.formats.base import Bytes, FloatFormat, Floats
from fusec.ir.dtypes import dtype

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features


class BF16(FloatFormat):
    """Truncated floats, widened with zeros."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)

    def emit_widen(self, b: ir.IRBuilder, bits: ir.Value, features: Features) -> ir.Value:
        """See `FloatFormat.emit_widen`."""
        from fusec.codegen.cpu import simd

        i32 = simd.like(bits.type, simd.I32)
        high = b.shl(b.zext(bits, i32), simd.const(i32, 16))
        return b.bitcast(high, simd.like(bits.type, simd.F32))


FORMAT = BF16(dtype("bf16"))
