"""IQ1_M: rows of IQ1_S's grid, moved by an eighth for each eight elements; a scale for 16.

Layout of a block (ggml-common.h `block_iq1_m`), 56 bytes:

    0   u8[32]  lower bits of the indices, one for eight elements
    32  u8[16]  a nibble for eight elements: the upper bits of the index; bit 3: the move is down
    48  u16[4]  bits 3k to 3k + 2: the scale of group 4i + k; bits 12 to 15: nibble i of d, an f16
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, Halves
from fusec.codegen.formats.grids import GridFormat
from fusec.ir.dtypes import DType


def d_bits(block: Block) -> Any:
    """The f16 that is spread over the scales' words, one u16 lane."""
    high = block.load("u16", 48, 4) & 0xF000
    first, second, third = ((high >> shift).take([i]) for i, shift in ((0, 12), (1, 8), (2, 4)))
    return first | second | third | high.take([3])


def group_scales(block: Block) -> Any:
    """The stored scales, sixteen u16 lanes."""
    words = block.load("u16", 48, 4).take([i // 4 for i in range(16)])
    return words >> tuple(i % 4 * 3 for i in range(16)) & 7


class IQ1_M(GridFormat):
    """weight = d * (2 * scale + 1) / 8 * (8 * GRID[index] + move), the move being 1 or -1."""

    group = 16
    cuda_scale = Halves(
        "half_to_f32({d}) * (unsigned_bits({scales}, $, 3) * float32(0.25) + float32(0.125))", 0, 3
    )

    @property
    def cuda_levels(self) -> str:
        """See `QuantFormat.cuda_levels`: rows of IQ1_S, then the moves."""
        indices = "with_high(bytes_of({indices}), {upper}, 0, 4, 3)"
        up, down = (self.value_words(8, move).split(", ")[0] for move in (1, -1))
        return f"by_moved_eights({self.table_name}(), {indices}, {{upper}}, {up}, {down})"

    def levels(self, block: Block, span: int) -> Any:
        """See `QuantFormat.levels`."""
        nibbles = block.load("u16", 32 + 2 * span) >> (0, 4, 8, 12)
        index = block.u8(4 * span, 4).to("u16") | (nibbles & 7) << 8
        move = (nibbles & 8).flag(254).to("u8") + 1
        return (self.look_up(index) * 8 + move.take([i // 8 for i in range(32)])).bits_as("i8")

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`. The product is exact: 11 + 4 bits."""
        return d_bits(block).half_to_f32() * (group_scales(block) * 2 + 1).to("f32") * 0.125

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`: indices; both scales of a span in a byte; d."""
        scales = group_scales(block).array.reshape(-1, 8, 2).astype(np.uint8)
        return {
            "indices": block.raw(0, 32).reshape(-1, 8, 4),
            "upper": block.raw(32, 16).reshape(-1, 8, 2),
            "scales": scales[:, :, :1] | scales[:, :, 1:] << np.uint8(3),
            "d": d_bits(block).array.view(np.uint8),
        }


FORMAT = IQ1_M(DType("iq1_m", 256, 56), "IQ1_S")
