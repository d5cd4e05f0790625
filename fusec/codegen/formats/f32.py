"""F32: IEEE binary32, little endian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusec.codegen.formats.base import Bytes, FloatFormat, Floats
from fusec.ir.dtypes import dtype

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features


class F32(FloatFormat):
    """Floats as they are."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        return blocks.view(np.float32)

    def emit_widen(self, b: ir.IRBuilder, bits: ir.Value, features: Features) -> ir.Value:
        """See `FloatFormat.emit_widen`."""
        from fusec.codegen.cpu import simd

        return b.bitcast(bits, simd.like(bits.type, simd.F32))


FORMAT = F32(dtype("f32"))
