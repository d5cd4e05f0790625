"""Encoders of the K-quants: 256 elements in groups that share a scale, and some a minimum.

Block layouts are those of llama.cpp (ggml-common.h, ggml-quants.c), as the modules of
`fusec.codegen.formats` draw them. The scales are searched by least squares (`quant_scales`).
"""

from __future__ import annotations

import numpy as np

from fusec.models.quant_bytes import Bytes, Search, f16_bytes
from fusec.models.quant_scales import (
    AffineSplit,
    Floats,
    Levels,
    best_affine,
    best_scales,
    reciprocal,
    split_affine,
    split_scales,
)

SIX_BIT, THREE_BIT = Levels.of(range(-32, 32)), Levels.of(range(-4, 4))

# Points the largest element of a block is tried on. The full lists reach the optimum of a dense
# search within a few tenths of a percent of the error; the quick ones cost a tenth of the time.
SIX_BIT_GUESSES = {
    "full": [end + 0.25 * step for end in (-32, 31) for step in range(-16, 17)],
    "quick": [-32.0],
}
THREE_BIT_GUESSES = {
    "full": [end + 0.25 * step for end in (-4, 3) for step in range(-6, 7)],
    "quick": [-4.0, -3.25],
}
# How many steps lie between the lowest and the highest element, by the largest code.
AFFINE_GUESSES = {
    31: {"full": [31 + 0.25 * step for step in range(-8, 33)], "quick": [31.0]},
    15: {"full": [15 + 0.25 * step for step in range(-8, 25)], "quick": [15.0]},
    3: {"full": [3 + 0.125 * step for step in range(-8, 17)], "quick": [3.0, 3.75]},
}
# How far from the nearest multiple of d a full search looks for a better one.
NEIGHBOURS = {"q2_k": 2, "q3_k": 2, "q4_k": 2, "q5_k": 2, "q6_k": 10}


def encode_q2_k(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 84]."""
    parts = x.reshape(-1, 16, 16)
    split = _affine(parts, "q2_k", search, top=3, limit=15)
    codes = split.codes(parts, 3).astype(np.uint8)
    scales = split.scales.astype(np.uint8) | split.offsets.astype(np.uint8) << 4
    return np.hstack([scales, _pairs(codes), f16_bytes(split.d), f16_bytes(split.dmin)])


def encode_q3_k(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 110]."""
    parts = x.reshape(-1, 16, 16)
    scales = best_scales(parts, THREE_BIT, THREE_BIT_GUESSES[search], refinements=1)
    neighbours = _neighbours("q3_k", search)
    d, multiples = split_scales(parts, scales, THREE_BIT, (-32, 31), neighbours)
    codes = THREE_BIT.encode(parts, reciprocal(d[:, None] * multiples))
    stored = (multiples + 32).astype(np.uint8)
    low = stored & np.uint8(15)
    high = (stored >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.hstack(
        [
            _planes_of_bits(codes >> np.uint8(2)),
            _pairs(codes & np.uint8(3)),
            low[:, :8] | low[:, 8:] << np.uint8(4),
            np.bitwise_or.reduce(high, axis=1),
            f16_bytes(d),
        ]
    )


def encode_q4_k(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 144]."""
    parts = x.reshape(-1, 8, 32)
    split = _affine(parts, "q4_k", search, top=15, limit=63)
    codes = split.codes(parts, 15).astype(np.uint8)
    return np.hstack([_scales_of(split), _nibbles_of_groups(codes)])


def encode_q5_k(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 176]."""
    parts = x.reshape(-1, 8, 32)
    split = _affine(parts, "q5_k", search, top=31, limit=63)
    codes = split.codes(parts, 31).astype(np.uint8)
    fifth = _planes_of_bits(codes >> np.uint8(4))
    return np.hstack([_scales_of(split), fifth, _nibbles_of_groups(codes & np.uint8(15))])


def encode_q6_k(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 210]."""
    parts = x.reshape(-1, 16, 16)
    scales = best_scales(parts, SIX_BIT, SIX_BIT_GUESSES[search], refinements=1)
    d, multiples = split_scales(parts, scales, SIX_BIT, (-128, 127), _neighbours("q6_k", search))
    codes = SIX_BIT.encode(parts, reciprocal(d[:, None] * multiples)).reshape(-1, 2, 128)
    low = (codes & 15).reshape(-1, 2, 2, 64)
    high = (codes >> 4).reshape(-1, 2, 4, 32)
    high = (high << np.array([0, 2, 4, 6], np.uint8)[:, None]).sum(2, dtype=np.uint8)
    return np.hstack(
        [
            (low[:, :, 0] | low[:, :, 1] << 4).reshape(len(x), -1),
            high.reshape(len(x), -1),
            multiples.astype(np.int8).view(np.uint8),
            f16_bytes(d),
        ]
    )


def _neighbours(dtype: str, search: Search) -> int:
    return NEIGHBOURS[dtype] if search == "full" else 0


def _affine(parts: Floats, dtype: str, search: Search, *, top: int, limit: int) -> AffineSplit:
    """Scales and minima for codes up to `top`, as multiples up to `limit` of d and dmin."""
    scale, offset = best_affine(parts, top, AFFINE_GUESSES[top][search], refinements=1)
    neighbours = _neighbours(dtype, search)
    return split_affine(parts, scale, offset, top=top, limit=limit, neighbours=neighbours)


def _scales_of(split: AffineSplit) -> Bytes:
    """d, dmin and the packed scales and minima at the start of a Q4_K or Q5_K block."""
    packed = _six_bit_pairs(split.scales.astype(np.uint8), split.offsets.astype(np.uint8))
    return np.hstack([f16_bytes(split.d), f16_bytes(split.dmin), packed])


def _nibbles_of_groups(codes: Bytes) -> Bytes:
    """[n, 8, 32] -> [n, 128]: even groups low, the odd one behind each high."""
    return (codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)).reshape(len(codes), -1)


def _planes_of_bits(bits: Bytes) -> Bytes:
    """256 bits a block -> [n, 32]: bit b of byte i belongs to element 32b + i."""
    planes = bits.reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(planes, axis=1)


def _pairs(codes: Bytes) -> Bytes:
    """256 two-bit codes a block -> [n, 64]: bits 2k of byte 32h + i for element 128h + 32k + i."""
    quarters = codes.reshape(-1, 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(quarters, axis=2).reshape(-1, 64)


def _six_bit_pairs(scales: Bytes, offsets: Bytes) -> Bytes:
    """Eight scales and eight offsets of 6 bits -> 12 bytes.

    Bytes 0-3 hold scales 0-3, bytes 4-7 offsets 0-3, each with the top two bits of number + 4 above
    it; bytes 8-11 hold the low nibbles of scales 4-7 and, above them, of offsets 4-7.
    """
    return np.hstack(
        [
            scales[:, :4] | scales[:, 4:] >> 4 << 6,
            offsets[:, :4] | offsets[:, 4:] >> 4 << 6,
            (scales[:, 4:] & 15) | offsets[:, 4:] << 4,
        ]
    )
