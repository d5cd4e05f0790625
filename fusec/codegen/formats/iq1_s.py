"""IQ1_S: rows of eight of -1, 0 and 1 out of a grid of 2048, moved by an eighth; a scale for 32.

Layout of a block (ggml-common.h `block_iq1_s`), 50 bytes:

    0   f16     d
    2   u8[32]  lower bits of the indices, one for eight elements
    34  u16[8]  bits 3k to 3k + 2: the upper bits of index 4s + k; bits 12 to 14: the scale; bit 15:
                the move is downwards
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes
from fusec.codegen.formats.grids import GridFormat
from fusec.ir.dtypes import DType


class IQ1_S(GridFormat):
    """weight = d * (2 * scale + 1) / 8 * (8 * GRID[index] + move), the move being 1 or -1."""

    cuda_scale = (
        "half_to_f32({d}) * (unsigned_bits({upper}, 12, 3) * float32(0.25) + float32(0.125))"
    )

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`: the move decides what the grid's rows select."""
        up, down = (self.value_words(8, move).split(", ")[0] for move in (1, -1))
        values = f"select_u32({{upper}} < uint32(0x8000), {up}, {down}), uint32(0)"
        indices = "with_high(bytes_of({indices}), {upper}, 0, 3, 3)"
        return f"by_eights({self.table_name}(), {indices}, {values})"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        upper = block.load("u16", 34 + 2 * span)
        index = block.u8(2 + 4 * span, 4).to("u16") | (upper >> (0, 3, 6, 9) & 7) << 8
        move = ((upper >> 15).to("u8") * 254 + 1).take([0] * 32)
        return (self.look_up(index) * 8 + move).bits_as("i8")

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 4 bits."""
        stored = block.load("u16", 34, 8) >> 12 & 7
        return block.f16(0) * (stored * 2 + 1).to("f32") * 0.125

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: as in the file."""
        indices, upper = block.raw(2, 32).reshape(-1, 8, 4), block.raw(34, 16).reshape(-1, 8, 2)
        return {"indices": indices, "upper": upper, "d": block.raw(0, 2)}


FORMAT = IQ1_S(DType("iq1_s", 256, 50), "IQ1_S")
