"""The fifth bits of Q5_0 and Q5_1."""

from __future__ import annotations

from typing import Any

from fusec.codegen.formats.lanes import Block


def fifth_bits(block: Block, offset: int) -> Any:
    """32 bits in four bytes as 16 where a bit is set: bit i belongs to element i."""
    spread = block.u8(offset, 4).take([i // 8 for i in range(32)])
    return (spread & tuple(1 << i % 8 for i in range(32))).flag(16)
