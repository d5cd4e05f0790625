"""Q3_K: 3-bit levels in superblocks of sixteen groups of 16, each with a 6-bit scale.

Layout of a block (ggml-common.h `block_q3_K`), 110 bytes:

    0    u8[32]  bit s of byte i: the third bit of element 32s + i
    32   u8[64]  lower bits: bits 2k of byte 32h + i belong to element 128h + 32k + i
    96   u8[12]  scales: low nibbles of bytes 0-7 for groups 0-7, high ones for 8-15; bits 2k of
                 byte 8 + i are the upper bits of group 4k + i
    108  f16     d
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, Halves, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


def group_scales(block: Block) -> Any:
    """The groups' scales, from -32 to 31, 16 i32 lanes."""
    low, high = block.u8(96, 8), block.u8(104, 4).to("i32")
    upper = high.take([0, 1, 2, 3] * 4) >> tuple(i // 4 * 2 for i in range(16)) & 3
    return ((low & 15).join(low >> 4).to("i32") | upper << 4) - 32


class Q3_K(QuantFormat):
    """weight = d * (scale - 32) * (code - 4)."""

    coding = Linear(bits=3, offset=4)
    group = 16
    cuda_scale = Halves("half_to_f32({d}) * byte({scales}, $)", 0, 1, "scales")

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        low = block.u8(32 + 32 * (span // 4), 32) >> span % 4 * 2 & 3
        return low | (block.u8(0, 32) >> span & 1) << 2

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 6 bits."""
        return block.f16(108) * group_scales(block).to("f32")

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: a span's two scales as bytes; d."""
        scales = group_scales(block).to("u8").array.reshape(-1, 8, 2)
        return {"scales": scales, "d": block.raw(108, 2)}


FORMAT = Q3_K(DType("q3_k", 256, 110))
