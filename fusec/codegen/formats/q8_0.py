"""Q8_0: 32 signed bytes and an f16 scale.

Layout of a block (ggml-common.h `block_q8_0`), 34 bytes:

    0  f16     d
    2  i8[32]  level
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType


class Q8_0(QuantFormat):
    """weight = d * level."""

    coding = Linear(bits=8)
    cuda_scale = "half_to_f32({d})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.u8(2, 32)

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(0)

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"d": block.raw(0, 2)[:, None]}


FORMAT = Q8_0(DType("q8_0", 32, 34))
