"""Random weights of synthetic models, encoded.

Each tensor has a random stream of its own, keyed by the seed and its name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from fusec.models.encode_tables import NVFP4_MAX
from fusec.models.quant_bytes import Bytes
from fusec.models.quantize import quantize

CHUNK = 1 << 22  # weights generated at a time
POOL = 1 << 18  # weights of a matrix whose blocks make up the rest of it, where it is to be quick


def joined(parts: Sequence[tuple[str, tuple[int, ...]]], *given: Any, quick: bool = False) -> Bytes:
    """The encoded rows of tensors, one below the other."""
    return np.concatenate([_weights(name, shape, *given, quick=quick) for name, shape in parts])


def spread_of(name: str, shape: tuple[int, ...], layers: int) -> float:
    """The standard deviation of a matrix."""
    spread = 1 / math.sqrt(shape[-1])
    if re.search(r"attn_output\.|ffn_down", name):
        spread /= math.sqrt(2 * layers)
    return spread


def _weights(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    layers: int,
    seed: int,
    factor: np.float32 | None,
    *,
    quick: bool,
) -> Bytes:
    """The encoded random weights of one tensor, of which `factor` is taken out.

    Matrices have standard deviation 1 / sqrt(cols), which keeps a normalised input at unit size;
    those that write to the residual stream are damped so that all layers together add unit size.
    Norm weights scatter around 1, biases around 0.
    """
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    if len(shape) == 1:
        found = 0.1 * random.standard_normal(shape, np.float32)
        found += np.float32(not name.endswith(".bias"))
        return found.astype(np.float32).view(np.uint8)
    rows, cols = shape
    pool = max(1, POOL // cols) if quick else rows
    made = _matrix(random, (min(rows, pool), cols), spread_of(name, shape, layers), dtype, factor)
    return made if pool >= rows else _drawn(random, made, (rows, cols), dtype)


def _matrix(
    random: np.random.Generator,
    shape: tuple[int, int],
    spread: float,
    dtype: str,
    factor: np.float32 | None,
) -> Bytes:
    """Encoded weights of that standard deviation."""
    rows, cols = shape
    step = max(CHUNK // cols, 1)
    parts = []
    for start in range(0, rows, step):
        values = random.standard_normal((min(step, rows - start), cols), np.float32)
        values *= np.float32(spread)
        if factor is not None:
            values = np.clip(values / factor, -NVFP4_MAX, NVFP4_MAX)
        # Random weights have no accuracy to lose, so the quick search will do.
        parts.append(quantize(values, dtype, "quick"))
    return np.concatenate(parts)


def _drawn(random: np.random.Generator, made: Bytes, shape: tuple[int, int], dtype: str) -> Bytes:
    """A larger matrix, each block of which is one of those that were made."""
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype.upper()]]
    blocks, (rows, cols) = made.reshape(-1, block_bytes), shape
    chosen = random.integers(0, len(blocks), rows * (cols // block), np.int32)
    return blocks[chosen].reshape(rows, -1)
