"""Q6_K: 6-bit levels in superblocks of sixteen groups of 16, each with a signed 8-bit scale.

Layout of a block (ggml-common.h `block_q6_K`), 210 bytes:

    0    u8[128]  low nibbles: byte 64h + 32p + i has element 128h + 32p + i (low) and the one 64
                  behind it (high), for h, p in 0, 1 and i < 32
    128  u8[64]   upper two bits: bits 2k of byte 32h + i belong to element 128h + 32k + i
    192  i8[16]   scales
    208  f16      d
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, Halves, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


class Q6_K(QuantFormat):
    """weight = d * scale * (code - 32)."""

    coding = Linear(bits=6, offset=32)
    group = 16
    cuda_scale = Halves("half_to_f32({d}) * byte({scales}, $)", 0, 1, "scales")

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        half, part = divmod(span, 4)
        low = block.u8(64 * half + 32 * (part % 2), 32) >> part // 2 * 4 & 15
        return low | (block.u8(128 + 32 * half, 32) >> 2 * part & 3) << 4

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 7 bits."""
        return block.f16(208) * block.load("i8", 192, 16).to("f32")

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: a span's two scales; d."""
        return {"scales": block.raw(192, 16).reshape(-1, 8, 2), "d": block.raw(208, 2)}


FORMAT = Q6_K(DType("q6_k", 256, 210))
