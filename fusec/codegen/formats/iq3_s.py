"""IQ3_S: rows of four out of a grid of 512, signs, and a 4-bit scale for 32.

Layout of a block (ggml-common.h `block_iq3_s`), 110 bytes:

    0    f16     d
    2    u8[64]  lower bits of the indices, one for four elements
    66   u8[8]   bit i of byte s: the ninth bit of index 8s + i
    74   u8[32]  signs of eight elements
    106  u8[4]   scales of 64 elements: low nibble the first 32, high nibble the others
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes
from fusec.codegen.formats.grids import GridFormat, negated, transposed_signs
from fusec.ir.dtypes import DType


def group_scales(block: Block) -> Any:
    """The stored scales, eight u8 lanes."""
    packed = block.u8(106, 4)
    return (packed & 15).join(packed >> 4).take([0, 4, 1, 5, 2, 6, 3, 7])


class IQ3_S(GridFormat):
    """weight = d * (2 * scale + 1) * sign * GRID[index]."""

    cuda_scale = "half_to_f32({d}) * (float32(2) * unsigned_bits({others}, 8, 4) + float32(1))"

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`."""
        first, second = (
            f"with_high(bytes_of({{rows}}[{h}]), {{others}}, {4 * h}, 1, 1)" for h in (0, 1)
        )
        rows = f"by_fours({self.table_name}(), {first}, {second}, {self.value_words()})"
        return f"signed({rows}, {{signs}})"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        ninth = block.u8(66 + span).to("u16") >> tuple(range(8)) & 1
        index = block.u8(2 + 8 * span, 8).to("u16") | ninth << 8
        return negated(self.look_up(index), block.u8(74 + 4 * span, 4))

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 5 bits."""
        return block.f16(0) * (group_scales(block) * 2 + 1).to("f32")

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: lower index bits; signs; ninth bits and scale; d."""
        scales = group_scales(block).array[:, :, None]
        others = [block.raw(66, 8)[:, :, None], scales]
        signs = self.per_span(lambda b, span: [transposed_signs(b.raw(74 + 4 * span, 4))], block)
        rows = block.raw(2, 64).reshape(-1, 8, 8)
        return {"rows": rows, "signs": signs, "others": np.concatenate(others, -1),
                "d": block.raw(0, 2)}  # fmt: skip


FORMAT = IQ3_S(DType("iq3_s", 256, 110), "IQ3_S")
