"""IQ3_XXS: rows of four out of a grid of 256, signs, and a 4-bit scale for 32.

Layout of a block (ggml-common.h `block_iq3_xxs`), 98 bytes:

    0   f16     d
    2   u8[64]  indices, one for four elements
    66  u32[8]  four times seven signs, from bit 28 on the scale
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes
from fusec.codegen.formats.grids import (
    GridFormat,
    negated,
    packed_signs_and_scale,
    scale_of,
    signs_of,
)
from fusec.ir.dtypes import DType


class IQ3_XXS(GridFormat):
    """weight = d * (scale + 1/2) / 2 * sign * GRID[index]."""

    cuda_scale = "half_to_f32({d}) * (spare_number({signs}) + float32(0.5)) * float32(0.5)"

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`."""
        indices = "bytes_of({rows}[0]), bytes_of({rows}[1])"
        rows = f"by_fours({self.table_name}(), {indices}, {self.value_words()})"
        return f"signed({rows}, even_signs({{signs}}))"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        return negated(self.look_up(block.u8(2 + 8 * span, 8)), signs_of(block, 66 + 4 * span))

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 5 bits."""
        return block.f16(0) * (scale_of(block.load("u32", 66, 8)) + 0.5) * 0.5

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: indices; signs and scale; d."""
        rows = block.raw(2, 64).reshape(-1, 8, 8)
        return {"rows": rows, "signs": self.per_span(self._signs, block), "d": block.raw(0, 2)}

    @staticmethod
    def _signs(block: ArrayBlock, span: int) -> list[Bytes]:
        return [packed_signs_and_scale(block, 66 + 4 * span)]


FORMAT = IQ3_XXS(DType("iq3_xxs", 256, 98), "IQ3_XXS")
