"""Encoders of formats whose codes point into sixteen uneven levels: IQ4_NL, IQ4_XS and NVFP4.

Block layouts are those of llama.cpp (ggml-common.h, ggml-quants.c), as the modules of
`fusec.codegen.formats` draw them.
"""

from __future__ import annotations

import numpy as np
from gguf import quants

from fusec.models.quant_bytes import Bytes, Search, f16_bytes, nibble_pairs
from fusec.models.quant_scales import (
    Floats,
    Levels,
    best_scales,
    dot,
    half,
    reciprocal,
    split_scales,
)

UNEVEN = Levels.of(quants.IQ4_NL.kvalues)
# Points the largest element of a block is tried on.
UNEVEN_GUESSES = {
    "full": [end + 1.5 * step for end in (-127, 113) for step in range(-15, 16)],
    "quick": [-127.0, -119.0],
}
E2M1 = Levels.of(sorted({*quants.NVFP4.kvalues}))
E2M1_CODES = np.array([quants.NVFP4.kvalues.index(value) for value in E2M1.grid], np.uint8)
E2M1_MAX, E4M3_MAX = 6, 448
NVFP4_MAX = E2M1_MAX * E4M3_MAX
"""The largest magnitude of a block, without its tensor's factor."""


def encode_iq4_nl(x: Floats, search: Search = "full") -> Bytes:
    """[n, 32] -> [n, 18]."""
    d = half(best_scales(x, UNEVEN, UNEVEN_GUESSES[search], refinements=1))
    return np.hstack([f16_bytes(d), nibble_pairs(UNEVEN.encode(x, reciprocal(d)))])


def encode_iq4_xs(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 136]."""
    parts = x.reshape(-1, 8, 32)
    scales = best_scales(parts, UNEVEN, UNEVEN_GUESSES[search], refinements=1)
    d, multiples = split_scales(parts, scales, UNEVEN, (-32, 31), 1 if search == "full" else 0)
    codes = UNEVEN.encode(parts, reciprocal(d[:, None] * multiples))
    stored = (multiples + 32).astype(np.uint16)
    high = (stored >> 4 << np.arange(0, 16, 2).astype(np.uint16)).sum(1, dtype=np.uint16)
    low = (stored & 15).astype(np.uint8)
    return np.hstack(
        [
            f16_bytes(d),
            high[:, None].view(np.uint8),
            low[:, 0::2] | low[:, 1::2] << 4,
            nibble_pairs(codes).reshape(len(x), -1),
        ]
    )


def encode_nvfp4(x: Floats, search: Search = "full") -> Bytes:
    """[n, 64] -> [n, 36], for values whose tensor's factor has been divided out already."""
    parts = x.reshape(-1, 4, 16)
    nearest = quants.NVFP4.fp32_to_ue4m3(np.abs(parts).max(-1) / np.float32(E2M1_MAX))
    shifts = range(-2, 3) if search == "full" else (0,)
    least, best = np.full(nearest.shape, np.inf, np.float32), nearest
    for shift in shifts:
        stored = np.clip(nearest.astype(np.int16) + shift, 0, 0x7E).astype(np.uint8)
        step = quants.NVFP4.ue4m3_to_fp32(stored)
        residual = parts - step[..., None] * E2M1.round(parts, reciprocal(step))
        error = dot(residual, residual)
        best = np.where(error < least, stored, best)
        least = np.minimum(error, least)
    codes = E2M1_CODES[E2M1.encode(parts, reciprocal(quants.NVFP4.ue4m3_to_fp32(best)))]
    packed = codes[..., :8] | codes[..., 8:] << np.uint8(4)
    return np.hstack([best, packed.reshape(len(x), -1)])
