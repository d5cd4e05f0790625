"""Q5_K: 5-bit codes in superblocks of eight groups, each with a 6-bit scale and a 6-bit minimum.

Layout of a block (ggml-common.h `block_q5_K`), 176 bytes:

    0   f16      d
    2   f16      dmin
    4   u8[12]   scales and minima, packed: see `k_scales`
    16  u8[32]   bit g of byte i: the fifth bit of element i of group g
    48  u8[128]  32 bytes for two groups: low nibbles the even group, high nibbles the odd one
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats import k_scales
from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


class Q5_K(QuantFormat):
    """weight = d * scale * code - dmin * minimum."""

    coding = Linear(bits=5)
    has_min = True
    cuda_scale, cuda_min = k_scales.SCALE, k_scales.MIN

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        nibble = block.u8(48 + 32 * (span // 2), 32) >> span % 2 * 4 & 15
        return nibble | (block.u8(16, 32) >> span & 1) << 4

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The products are exact: 11 + 6 bits."""
        return block.f16(0) * k_scales.k_scales(block, 0).to("f32")

    def mins(self, block: Block) -> Any:
        """See `QuantFormat.mins`."""
        return block.f16(2) * k_scales.k_scales(block, 1).to("f32")

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return k_scales.fields(block)


FORMAT = Q5_K(DType("q5_k", 256, 176))
