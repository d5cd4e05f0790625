"""IQ4_XS: IQ4_NL's levels in superblocks of eight groups, each with a 6-bit scale.

Layout of a block (ggml-common.h `block_iq4_xs`), 136 bytes:

    0  f16      d
    2  u16      bits 2g and 2g+1: the upper two bits of group g's scale
    4  u8[4]    nibble g (low first): the lower four bits of group g's scale
    8  u8[128]  16 bytes a group, packed as in IQ4_NL
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Table
from fusec.codegen.formats.iq4_nl import LEVELS
from fusec.ir.dtypes import DType


def group_scales(block: Block) -> Any:
    """The groups' scales, from -32 to 31, eight i32 lanes."""
    high = block.load("u16", 2).to("i32") >> tuple(range(0, 16, 2)) & 3
    low = block.load("i32", 4) >> tuple(range(0, 32, 4)) & 15
    return (low | high << 4) - 32


class IQ4_XS(QuantFormat):
    """weight = d * (scale - 32) * LEVELS[code]."""

    coding = Table(LEVELS)
    cuda_scale = "half_to_f32({d}) * byte({scale}, 0)"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.nibbles(8 + 16 * span)

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 6 bits."""
        return block.f16(0) * group_scales(block).to("f32")

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"scale": group_scales(block).to("u8").array[:, :, None], "d": block.raw(0, 2)}


FORMAT = IQ4_XS(DType("iq4_xs", 256, 136))
