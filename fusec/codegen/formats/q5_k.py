"""Q5_K: 5-bit codes in superblocks of eight groups, each with a 6-bit scale and a 6-bit minimum.

Layout of a block (ggml-common.h `block_q5_K`), 176 bytes:

    0   f16      d
    2   f16      dmin
    4   u8[12]   scales and minima, packed: see `k_scales`
    16  u8[32]   bit g of byte i: the fifth bit of element i of group g
    48  u8[128]  32 bytes for two groups: low nibbles the even group, high nibbles the odd one
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import Block
from fusec.codegen.formats.coding import Linear
from fusec.codegen.formats.q4_k import Q4_K
from fusec.ir.dtypes import DType


class Q5_K(Q4_K):
    """Q4_K with a fifth bit; scales and minima lie in the same place."""

    coding = Linear(bits=5)

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        nibble = block.u8(48 + 32 * (span // 2), 32) >> span % 2 * 4 & 15
        return nibble | (block.u8(16, 32) >> span & 1) << 4


FORMAT = Q5_K(DType("q5_k", 256, 176))
