"""Q5_1: 5-bit codes, an f16 scale and an f16 least value.

Layout of a block (ggml-common.h `block_q5_1`), 24 bytes:

    0  f16     d
    2  f16     m
    4  u32     bit i: the fifth bit of element i
    8  u8[16]  low nibbles: elements 0 to 15; high nibbles: elements 16 to 31
"""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.base import Block
from fusec.codegen.formats.coding import Linear
from fusec.codegen.formats.fifth_bits import fifth_bits
from fusec.codegen.formats.q4_1 import Q4_1
from fusec.ir.dtypes import DType


class Q5_1(Q4_1):
    """Q4_1 with a fifth bit; scale and least value lie in the same place."""

    coding = Linear(bits=5)

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        return block.nibbles(8) | fifth_bits(block, 4)


FORMAT = Q5_1(DType("q5_1", 32, 24))
