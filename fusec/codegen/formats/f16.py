"""F16: IEEE binary16, little endian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusec.codegen.formats.base import Bytes, FloatFormat, Floats
from fusec.ir.dtypes import dtype

if TYPE_CHECKING:
    from llvmlite import ir

    from fusec.codegen.cpu.simd import Features


class F16(FloatFormat):
    """Halves, widened exactly."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        return blocks.view(np.float16).astype(np.float32)

    def emit_widen(self, b: ir.IRBuilder, bits: ir.Value, features: Features) -> ir.Value:
        """See `FloatFormat.emit_widen`."""
        from fusec.codegen.cpu import simd

        return simd.widen_f16(b, bits, features)


FORMAT = F16(dtype("f16"))
