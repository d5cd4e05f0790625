"""IQ2_XS: rows of eight out of a grid of 512, signs, and a 4-bit scale for 16.

Layout of a block (ggml-common.h `block_iq2_xs`), 74 bytes:

    0   f16      d
    2   u16[32]  one for eight elements: bits 0-8 the index, bits 9-15 seven signs
    66  u8[8]    scales of 32 elements: low nibble the first 16, high nibble the others
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes
from fusec.codegen.formats.grids import (
    GridFormat,
    full_signs,
    negated,
    nibble_scales,
    scales_of_halves,
    transposed_signs,
)
from fusec.ir.dtypes import DType


class IQ2_XS(GridFormat):
    """weight = d * (scale + 1/2) / 4 * sign * GRID[index]."""

    group = 16
    cuda_scale = scales_of_halves("scales")

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`."""
        indices = "with_high(bytes_of({words}[0]), {words}[1], 25, 2, 1)"
        rows = f"by_eights({self.table_name}(), {indices}, {self.value_words()})"
        return f"signed({rows}, even_signs({{words}}[1]))"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        both = block.load("u16", 2 + 8 * span, 4)
        return negated(self.look_up(both & 511), full_signs((both >> 9).to("u8")))

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 5 bits."""
        return block.f16(0) * (nibble_scales(block, 66) + 0.5) * 0.25

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: lower index bits and signs; scales; d."""
        words = self.per_span(self._words, block)
        return {"words": words, "scales": block.raw(66, 8)[:, :, None], "d": block.raw(0, 2)}

    @staticmethod
    def _words(block: ArrayBlock, span: int) -> list[Bytes]:
        """The ninth bits of the indices take the places of the signs that follow."""
        both = block.load("u16", 2 + 8 * span, 4)
        signs, ninth = full_signs((both >> 9).to("u8")).array, (both >> 8 & 1).to("u8").array
        return [both.to("u8").array, transposed_signs(signs, ninth)]


FORMAT = IQ2_XS(DType("iq2_xs", 256, 74), "IQ2_XS")
