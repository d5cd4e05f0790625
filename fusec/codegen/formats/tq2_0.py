"""TQ2_0: levels -1, 0 and 1 in two bits each, and an f16 scale for 256.

Layout of a block (ggml-common.h `block_tq2_0`), 66 bytes:

    0   u8[64]  bits 2k of byte 32h + i belong to element 128h + 32k + i
    64  f16     d
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


class TQ2_0(QuantFormat):
    """weight = d * (code - 1)."""

    coding = Linear(bits=2, offset=1)
    cuda_scale = "half_to_f32({d})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.u8(32 * (span // 4), 32) >> span % 4 * 2 & 3

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(64).take([0] * 8)

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"d": block.raw(64, 2)}


FORMAT = TQ2_0(DType("tq2_0", 256, 66))
