"""Encoding float32 weights as GGML's block formats.

gguf-py encodes some types; the others have encoders here, whose scales are searched for the least
squared error without an importance matrix. All are read back by gguf-py's `dequantize`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize as gguf_quantize

from fusec.errors import FusecError
from fusec.models import encode_grids, encode_k, encode_tables
from fusec.models.quant_bytes import Bytes, Search
from fusec.models.quant_scales import Floats

CHUNK = 1 << 16  # elements encoded at a time, so that the work stays in the cache
HALF_MAX = 65504  # the largest half-precision number
LARGEST = {"f32": np.inf, "bf16": np.inf, "mxfp4": np.inf, "nvfp4": encode_tables.NVFP4_MAX}

Encoder = Callable[[Floats, Search], Bytes]
ENCODERS: dict[str, Encoder] = {
    **{
        name: getattr(encode_k, f"encode_{name}")
        for name in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
    },
    **{name: getattr(encode_tables, f"encode_{name}") for name in ("iq4_nl", "iq4_xs", "nvfp4")},
    **encode_grids.ENCODERS,
}
BY_GGUF = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4")


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
    largest = LARGEST.get(dtype.lower(), HALF_MAX)
    if np.abs(values).max(initial=0) > largest:
        raise FusecError(f"cannot quantize to {dtype}: values beyond {largest} overflow its scales")
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
