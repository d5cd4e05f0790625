"""Q4_0: 4-bit signed levels and an f16 scale.

Layout of a block (ggml-common.h `block_q4_0`), 18 bytes:

    0  f16     d
    2  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


class Q4_0(QuantFormat):
    """weight = d * (code - 8)."""

    coding = Linear(bits=4, offset=8)
    cuda_scale = "half_to_f32({d})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.nibbles(2)

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(0)

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"d": block.raw(0, 2)[:, None]}


FORMAT = Q4_0(DType("q4_0", 32, 18))
