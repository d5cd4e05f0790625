"""IQ2_XXS: rows of eight out of a grid of 256, signs, and a 4-bit scale for 32.

Layout of a block (ggml-common.h `block_iq2_xxs`), 66 bytes:

    0  f16         d
    2  8 x u32[2]  first word: four indices, a byte each; second: four times seven signs, from bit
                   28 on the scale
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


class IQ2_XXS(GridFormat):
    """weight = d * (scale + 1/2) / 4 * sign * GRID[index]."""

    cuda_scale = "half_to_f32({d}) * (spare_number({words}[1]) + float32(0.5)) * float32(0.25)"

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`."""
        rows = f"by_eights({self.table_name}(), bytes_of({{words}}[0]), {self.value_words()})"
        return f"signed({rows}, even_signs({{words}}[1]))"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        at = 2 + 8 * span
        return negated(self.look_up(block.u8(at, 4)), signs_of(block, at + 4))

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 5 bits."""
        return (
            block.f16(0) * (scale_of(block.load("u32", 2, 16).take(range(1, 16, 2))) + 0.5) * 0.25
        )

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"words": self.per_span(self._words, block), "d": block.raw(0, 2)}

    @staticmethod
    def _words(block: ArrayBlock, span: int) -> list[Bytes]:
        at = 2 + 8 * span
        return [block.raw(at, 4), packed_signs_and_scale(block, at + 4)]


FORMAT = IQ2_XXS(DType("iq2_xxs", 256, 66), "IQ2_XXS")
