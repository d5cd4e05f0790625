"""MXFP4: e2m1 floats and a power of two for each 32 (OCP Microscaling formats, version 1.0).

Layout of a block (ggml-common.h `block_mxfp4`), 17 bytes:

    0  u8      e: the scale is 2 to the power e - 127
    1  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Table
from fusec.ir.dtypes import DType

DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""The values of e2m1, doubled so that they are whole numbers."""


class MXFP4(QuantFormat):
    """weight = 2 ** (e - 128) * DOUBLED[code]."""

    coding = Table(DOUBLED)
    cuda_scale = "e8m0_half({e})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.nibbles(1)

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`: a product of two powers, of which neither is subnormal."""
        e = block.u8(0).to("u32")
        first, second = ((half + 63 << 23).bits_as("f32") for half in (e >> 1, e + 1 >> 1))
        return first * second

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"e": block.raw(0, 1)[:, None]}


FORMAT = MXFP4(DType("mxfp4", 32, 17))
