"""IQ2_S: rows of eight out of a grid of 1024, signs, and a 4-bit scale for 16.

Layout of a block (ggml-common.h `block_iq2_s`), 82 bytes:

    0   f16     d
    2   u8[32]  lower bits of the indices, one for eight elements
    34  u8[32]  signs of eight elements
    66  u8[8]   bits 2k of byte s: the upper bits of index 4s + k
    74  u8[8]   scales of 32 elements: low nibble the first 16, high nibble the others
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes
from fusec.codegen.formats.grids import (
    GridFormat,
    negated,
    nibble_scales,
    scales_of_halves,
    transposed_signs,
)
from fusec.ir.dtypes import DType


class IQ2_S(GridFormat):
    """weight = d * (scale + 1/2) / 4 * sign * GRID[index]."""

    group = 16
    cuda_scale = scales_of_halves("others", 8)

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`."""
        indices = "with_high(bytes_of({words}[0]), {others}, 0, 2, 2)"
        rows = f"by_eights({self.table_name}(), {indices}, {self.value_words()})"
        return f"signed({rows}, {{words}}[1])"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        upper = block.u8(66 + span).to("u16") >> (0, 2, 4, 6) & 3
        index = block.u8(2 + 4 * span, 4).to("u16") | upper << 8
        return negated(self.look_up(index), block.u8(34 + 4 * span, 4))

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 5 bits."""
        return block.f16(0) * (nibble_scales(block, 74) + 0.5) * 0.25

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: lower index bits and signs; upper bits and scales; d."""
        words, others = (self.per_span(f, block) for f in (self._words, self._others))
        return {"words": words, "others": others, "d": block.raw(0, 2)}

    @staticmethod
    def _words(block: ArrayBlock, span: int) -> list[Bytes]:
        return [block.raw(2 + 4 * span, 4), transposed_signs(block.raw(34 + 4 * span, 4))]

    @staticmethod
    def _others(block: ArrayBlock, span: int) -> list[Bytes]:
        return [block.raw(66 + span, 1), block.raw(74 + span, 1)]


FORMAT = IQ2_S(DType("iq2_s", 256, 82), "IQ2_S")
