"""What the encoders of block formats share: types, and fields as bytes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Search = Literal["full", "quick"]


def f16_bytes(x: npt.NDArray[np.float32]) -> Bytes:
    """[n] -> [n, 2], little-endian half precision."""
    halves: npt.NDArray[np.float16] = x.astype("<f2")
    return halves[:, None].view(np.uint8)


def nibble_pairs(codes: Bytes) -> Bytes:
    """[..., 32] four-bit codes -> [..., 16]: the first half in the low nibbles."""
    return codes[..., :16] | codes[..., 16:] << np.uint8(4)
