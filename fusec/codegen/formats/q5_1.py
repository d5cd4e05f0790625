"""Q5_1: 5-bit codes, an f16 scale and an f16 least value.

Layout of a block (ggml-common.h `block_q5_1`), 24 bytes:

    0  f16     d
    2  f16     m
    4  u32     bit i: the fifth bit of element i
    8  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.codegen.formats.fifth_bits import fifth_bits
from fusec.ir.dtypes import DType


class Q5_1(QuantFormat):
    """weight = d * code + m: the minimum that is taken off is -m."""

    coding = Linear(bits=5)
    has_min = True
    cuda_scale = "half_to_f32({dm})"
    cuda_min = "-high_half_to_f32({dm})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.nibbles(8) | fifth_bits(block, 4)

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(0)

    def mins(self, block: Block) -> Any:
        """See `QuantFormat.mins`."""
        return (block.load("u16", 2) ^ 0x8000).half_to_f32()

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"dm": block.raw(0, 4)[:, None]}


FORMAT = Q5_1(DType("q5_1", 32, 24))
