"""Q2_K: 2-bit codes in superblocks of sixteen groups of 16 with 4-bit scales and minima.

Layout of a block (ggml-common.h `block_q2_K`), 84 bytes:

    0   u8[16]  low nibble: a group's scale; high nibble: its minimum
    16  u8[64]  bits 2k of byte 32h + i belong to element 128h + 32k + i
    80  f16     d
    82  f16     dmin
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, Halves, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


class Q2_K(QuantFormat):
    """weight = d * scale * code - dmin * minimum."""

    coding = Linear(bits=2)
    group, has_min = 16, True
    cuda_scale = Halves("half_to_f32({d}) * unsigned_bits({scales}, $, 4)", 0, 8)
    cuda_min = Halves("high_half_to_f32({d}) * unsigned_bits({scales}, $, 4)", 4, 12)

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.u8(16 + 32 * (span // 4), 32) >> span % 4 * 2 & 3

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The products are exact: 11 + 4 bits."""
        return block.f16(80) * (block.u8(0, 16) & 15).to("f32")

    def mins(self, block: Block) -> Any:
        """See `QuantFormat.mins`."""
        return block.f16(82) * (block.u8(0, 16) >> 4).to("f32")

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: a span's two bytes of scale and minimum; d and dmin."""
        return {"scales": block.raw(0, 16).reshape(-1, 8, 2), "d": block.raw(80, 4)}


FORMAT = Q2_K(DType("q2_k", 256, 84))
