"""Random weight blocks for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.formats import Format

# where a format keeps its f16 scales
SCALES = {"q8_0": (0,), "iq4_nl": (0,), "iq4_xs": (0,), "q5_k": (0, 2), "q6_k": (208,)}


def random_rows(weights: Format, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """`uint8[rows, row_bytes]`: random bytes, with scales and floats of ordinary size."""
    rng = np.random.default_rng(seed)
    size = weights.dtype.block_bytes
    if not weights.quantized:
        values = rng.normal(size=(rows, columns)).astype(np.float32)
        if weights.name == "bf16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(weights.dtype.numpy).view(np.uint8)
    blocks = rng.integers(0, 256, (rows, columns // weights.dtype.block, size), dtype=np.uint8)
    for offset in SCALES[weights.name]:
        scales = rng.uniform(1e-3, 1e-2, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, offset : offset + 2] = scales[:, :, None].view(np.uint8)
    return blocks.reshape(rows, -1)
