"""Encoding float32 weights as GGML's block formats.

Block layouts are those of llama.cpp (ggml-common.h, ggml-quants.c) and are read back by gguf-py's
`dequantize`. gguf-py encodes some types; those it cannot are written here:

    type    elements  bytes of a block, in order
    iq4_nl      32    d: f16 | 16 bytes of codes, element j low nibble and j + 16 high
    iq4_xs     256    d: f16 | high 2 bits of 8 scales: u16 | low 4 bits: 4 bytes | 8 x 16 codes
    q5_k       256    d, dmin: f16 | 8 scales and 8 offsets of 6 bits: 12 bytes
                      | fifth bits: 32 bytes, bit b for sub-block b | low nibbles: 128 bytes
    q6_k       256    low nibbles: 128 bytes | high 2 bits: 64 bytes | 16 scales: i8 | d: f16

`iq4_*` codes point into sixteen uneven levels; an `iq4_xs` scale is d times (its 6 bits - 32).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import IQ4_NL
from gguf.quants import quantize as gguf_quantize

from fusec.errors import FusecError
from fusec.models.quant_scales import (
    Floats,
    Levels,
    best_affine,
    best_scales,
    half,
    reciprocal,
    split_affine,
    split_scales,
)

Bytes = npt.NDArray[np.uint8]
Search = Literal["full", "quick"]

CHUNK = 1 << 16  # elements encoded at a time, so that the work stays in the cache
BLOCK = 256  # elements of a super-block
UNEVEN = Levels.of(IQ4_NL.kvalues)
SIX_BIT = Levels.of(range(-32, 32))
Q5_TOP, SCALE_TOP = 31, 63
HALF_MAX = 65504  # the largest half-precision number

# Points the largest element of a block is tried on. The full lists reach the optimum of a dense
# search within a few tenths of a percent of the error; the quick ones cost a tenth of the time.
UNEVEN_GUESSES = {
    "full": [end + 1.5 * step for end in (-127, 113) for step in range(-15, 16)],
    "quick": [-127.0, -119.0],
}
SIX_BIT_GUESSES = {
    "full": [end + 0.25 * step for end in (-32, 31) for step in range(-16, 17)],
    "quick": [-32.0],
}
AFFINE_GUESSES = {"full": [31 + 0.25 * step for step in range(-8, 33)], "quick": [31.0]}
# How far from the nearest multiple of d a full search looks for a better one.
NEIGHBOURS = {"iq4_xs": 1, "q5_k": 2, "q6_k": 10}


def quantize(array: npt.ArrayLike, dtype: str, search: Search = "full") -> Bytes:
    """Encode float32 [rows, cols] as uint8 [rows, bytes per row].

    `dtype` is a GGML type name in any case. `search` 'full' picks scales for the least squared
    error; 'quick' is about ten times faster and a few percent less accurate. Raises FusecError for
    an unknown type, rows that are not whole blocks, and values the type cannot hold.
    """
    values = np.ascontiguousarray(array, np.float32)
    kind = getattr(GGMLQuantizationType, dtype.upper(), None)
    if kind is None or (dtype.lower() not in ENCODERS and dtype.lower() not in BY_GGUF):
        known = ", ".join(sorted([*ENCODERS, *BY_GGUF]))
        raise FusecError(f"cannot quantize to '{dtype}', known: {known}")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if values.ndim != 2 or values.shape[1] % block:
        raise FusecError(
            f"cannot quantize shape {values.shape} to {dtype}: expected rows of whole blocks "
            f"of {block}"
        )
    if not np.isfinite(values).all():
        raise FusecError(f"cannot quantize to {dtype}: the values are not all finite")
    if dtype.lower() not in ("f32", "bf16") and np.abs(values).max(initial=0) > HALF_MAX:
        raise FusecError(
            f"cannot quantize to {dtype}: values beyond {HALF_MAX} overflow its scales"
        )
    encode = ENCODERS.get(dtype.lower())
    out = np.empty((values.size // block, block_bytes), np.uint8)
    blocks = values.reshape(-1, block)
    step = CHUNK // block
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        if encode is not None:
            coded = encode(part, search)
        else:
            coded = gguf_quantize(part.reshape(1, -1), kind).view(np.uint8)
        out[start : start + step] = coded.reshape(-1, block_bytes)
    return out.reshape(len(values), -1)


def encode_iq4_nl(x: Floats, search: Search = "full") -> Bytes:
    """[n, 32] -> [n, 18]."""
    d = half(best_scales(x, UNEVEN, UNEVEN_GUESSES[search], refinements=1))
    return np.hstack([_f16(d), _nibbles(UNEVEN.encode(x, reciprocal(d)))])


def encode_iq4_xs(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 136]."""
    parts = x.reshape(-1, 8, 32)
    scales = best_scales(parts, UNEVEN, UNEVEN_GUESSES[search], refinements=1)
    d, multiples = split_scales(parts, scales, UNEVEN, (-32, 31), _neighbours("iq4_xs", search))
    codes = UNEVEN.encode(parts, reciprocal(d[:, None] * multiples))
    stored = (multiples + 32).astype(np.uint16)
    high = (stored >> 4 << np.arange(0, 16, 2).astype(np.uint16)).sum(1, dtype=np.uint16)
    low = (stored & 15).astype(np.uint8)
    return np.hstack(
        [
            _f16(d),
            high[:, None].view(np.uint8),
            low[:, 0::2] | low[:, 1::2] << 4,
            _nibbles(codes).reshape(len(x), -1),
        ]
    )


def encode_q5_k(x: Floats, search: Search = "full") -> Bytes:
    """[n, 256] -> [n, 176]."""
    parts = x.reshape(-1, 8, 32)
    scale, offset = best_affine(parts, Q5_TOP, AFFINE_GUESSES[search], refinements=1)
    neighbours = _neighbours("q5_k", search)
    split = split_affine(parts, scale, offset, top=Q5_TOP, limit=SCALE_TOP, neighbours=neighbours)
    codes = split.codes(parts, Q5_TOP).astype(np.uint8)
    fifth = (codes >> 4 << np.arange(8, dtype=np.uint8)[:, None]).sum(1, dtype=np.uint8)
    low = codes & 15
    return np.hstack(
        [
            _f16(split.d),
            _f16(split.dmin),
            _six_bit_pairs(split.scales.astype(np.uint8), split.offsets.astype(np.uint8)),
            fifth,
            (low[:, 0::2] | low[:, 1::2] << 4).reshape(len(x), -1),
        ]
    )


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
            _f16(d),
        ]
    )


Encoder = Callable[[Floats, Search], Bytes]
ENCODERS: dict[str, Encoder] = {
    "iq4_nl": encode_iq4_nl,
    "iq4_xs": encode_iq4_xs,
    "q5_k": encode_q5_k,
    "q6_k": encode_q6_k,
}
BY_GGUF = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def _neighbours(dtype: str, search: Search) -> int:
    return NEIGHBOURS[dtype] if search == "full" else 0


def _f16(x: Floats) -> Bytes:
    """[n] -> [n, 2], little-endian half precision."""
    halves: npt.NDArray[np.float16] = x.astype("<f2")
    return halves[:, None].view(np.uint8)


def _nibbles(codes: Bytes) -> Bytes:
    """[..., 32] four-bit codes -> [..., 16]: the first half in the low nibbles."""
    return codes[..., :16] | codes[..., 16:] << np.uint8(4)


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
