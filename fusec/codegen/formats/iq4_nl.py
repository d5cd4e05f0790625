"""IQ4_NL: 4-bit indices into a table of 16 unevenly spaced levels, and an f16 scale.

Layout of a block (ggml-common.h `block_iq4_nl`), 18 bytes:

    0  f16     d
    2  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Table
from fusec.ir.dtypes import DType

# ggml-common.h `kvalues_iq4nl`
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class IQ4_NL(QuantFormat):
    """weight = d * LEVELS[code]."""

    coding = Table(LEVELS)
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


FORMAT = IQ4_NL(DType("iq4_nl", 32, 18))
