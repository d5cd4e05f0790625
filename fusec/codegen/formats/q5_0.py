"""Q5_0: 5-bit signed levels and an f16 scale.

Layout of a block (ggml-common.h `block_q5_0`), 22 bytes:

    0  f16     d
    2  u32     bit i: the fifth bit of element i
    6  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.codegen.formats.fifth_bits import fifth_bits
from fusec.ir.dtypes import DType


class Q5_0(QuantFormat):
    """weight = d * (code - 16)."""

    coding = Linear(bits=5, offset=16)
    cuda_scale = "half_to_f32({d})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.nibbles(6) | fifth_bits(block, 2)

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(0)

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"d": block.raw(0, 2)[:, None]}


FORMAT = Q5_0(DType("q5_0", 32, 22))
