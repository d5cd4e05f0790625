"""NVFP4: e2m1 floats, and an unsigned e4m3 float for each 16.

Layout of a block (ggml-common.h `block_nvfp4`), 36 bytes:

    0  u8[4]   scales
    4  u8[32]  eight bytes a group: low nibbles elements 0 to 7, high nibbles elements 8 to 15

A model keeps a further f32 factor for each matrix, in a tensor of its own.
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, Halves, QuantFormat
from fusec.codegen.formats.coding import Table
from fusec.codegen.formats.mxfp4 import DOUBLED
from fusec.ir.dtypes import DType


def scale_bits(block: Block) -> Any:
    """The four scales without their sign, which means nothing; 0x7F stands for zero."""
    stored = block.u8(0, 4)
    return stored & (stored ^ 0x7F).flag(0x7F)


class NVFP4(QuantFormat):
    """weight = scale / 2 * DOUBLED[code]."""

    coding = Table(DOUBLED)
    group = 16
    cuda_scale = Halves("half_e4m3({scales}, $)", 0, 1, "scales")

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        packed = block.u8(4 + 16 * span, 16)
        low, high = packed & 15, packed >> 4
        return low.join(high).take([*range(8), *range(16, 24), *range(8, 16), *range(24, 32)])

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`: an e4m3 float is an f16 with 8 less in its exponent."""
        return (scale_bits(block).to("u16") << 7).half_to_f32() * 128.0

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: a span's two scales."""
        return {"scales": scale_bits(block).array.reshape(-1, 2, 2)}


FORMAT = NVFP4(DType("nvfp4", 64, 36))
