"""TQ1_0: levels -1, 0 and 1, five to a byte, and an f16 scale for 256.

Layout of a block (ggml-common.h `block_tq1_0`), 54 bytes:

    0   u8[32]  digit n of byte i: element 32n + i
    32  u8[16]  digit n of byte i: element 160 + 16n + i
    48  u8[4]   digit n < 4 of byte i: element 240 + 4n + i
    52  f16     d

A byte is a fraction of 256 in base 3: its first digit is the whole part of three times it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusec.codegen.formats.base import ArrayBlock, Block, Bytes, QuantFormat
from fusec.codegen.formats.coding import Linear
from fusec.ir.dtypes import DType

POWERS = (1, 3, 9, 27, 81)


def digits(packed: Any, powers: Any) -> Any:
    """One digit of each byte, u8 lanes from 0 to 2; the digit's number is that of the power."""
    return ((packed * powers).to("u16") * 3 >> 8).to("u8")


def fractions(codes: Bytes) -> Bytes:
    """Up to five digits `[..., digits, bytes]` to bytes, rounded up so that digits come back."""
    weights = np.array(POWERS[::-1][: codes.shape[-2]], np.uint16)[:, None]
    value = (codes * weights).sum(-2)
    return ((value * 256 + 242) // 243).astype(np.uint8)


class TQ1_0(QuantFormat):
    """weight = d * (code - 1)."""

    coding = Linear(bits=2, offset=1)
    cuda_scale = "half_to_f32({d})"
    cuda_levels = "trits({fours}, {pairs}, {single})"

    def codes(self, block: Block, span: int) -> Any:
        """See `QuantFormat.codes`."""
        if span < 5:
            return digits(block.u8(0, 32), POWERS[span])
        first = span % 5 * 2
        low = digits(block.u8(32, 16), POWERS[first])
        if span < 7:
            return low.join(digits(block.u8(32, 16), POWERS[first + 1]))
        last = block.u8(48, 4).take([0, 1, 2, 3] * 4)
        return low.join(digits(last, tuple(POWERS[i // 4] for i in range(16))))

    def scales(self, block: Block) -> Any:
        """See `QuantFormat.scales`."""
        return block.f16(52).take([0] * 8)

    def cuda_codes(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_codes`: 20 elements in four bytes, 10 in two, 2 in one."""
        codes = self._spans(lambda span: self.codes(block, span))
        shape = codes.shape[:-1]
        return {
            "fours": fractions(codes[..., :20].reshape(*shape, 5, 4)),
            "pairs": fractions(codes[..., 20:30].reshape(*shape, 5, 2)),
            "single": fractions(codes[..., 30:].reshape(*shape, 2, 1)),
        }

    def cuda_fields(self, block: ArrayBlock) -> dict[str, Bytes]:
        """See `QuantFormat.cuda_fields`."""
        return {"d": block.raw(52, 2)}


FORMAT = TQ1_0(DType("tq1_0", 256, 54))
