"""Q8_0: 32 signed bytes and an f16 scale.

Layout of a block (ggml-common.h `block_q8_0`), 34 bytes:

    0  f16     d
    2  i8[32]  level
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


class Q8_0(QuantFormat):
    """weight = d * level."""

    def decode_blocks(self, blocks: Bytes) -> Floats:
        """See `Format.decode_blocks`."""
        return f16_field(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)

    def cuda_parts(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """See `QuantFormat.cuda_parts`: first halves of a row's blocks, second halves; d."""
        levels = blocks[:, :, 2:].reshape(*blocks.shape[:2], 2, 16)
        return levels.transpose(0, 2, 1, 3), blocks[:, :, :2]

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

        return simd.load(b, block, simd.vec(simd.I8, 32), 2)


FORMAT = Q8_0(DType("q8_0", 32, 34))
