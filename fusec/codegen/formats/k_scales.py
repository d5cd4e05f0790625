"""The scales and minima that Q4_K and Q5_K pack into 12 bytes at byte 4 of a block."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusec.codegen.formats.lanes import ArrayBlock, Block

SCALE = "half_to_f32({d}) * unsigned_bits({scales}, 0, 8)"
MIN = "high_half_to_f32({d}) * unsigned_bits({scales}, 8, 8)"


def k_scales(block: Block, part: int) -> Any:
    """The eight 6-bit scales (`part` 0) or minima (`part` 1), u8 lanes.

    As in ggml-quants.c `get_scale_min_k4`: bytes 0-3 hold scales 0-3 in their lower six bits, bytes
    4-7 minima 0-3. Bytes 8-11 hold the lower nibbles of scales 4-7 (low) and minima 4-7 (high);
    their upper two bits are the upper two bits of bytes 0-3 and 4-7.
    """
    own, shared = block.u8(4 + 4 * part, 4), block.u8(12, 4)
    nibble = shared >> 4 if part else shared & 15
    return (own & 63).join(nibble | own >> 6 << 4)


def fields(block: ArrayBlock) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Parts for CUDA: a span's scale and minimum as bytes, and d and dmin."""
    scales, minima = (k_scales(block, part).array for part in (0, 1))
    return {"scales": np.stack([scales, minima], axis=-1), "d": block.raw(0, 4)}
