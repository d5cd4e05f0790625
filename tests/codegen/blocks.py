"""Random weight blocks for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.formats import Format

# where a format keeps its f16 scales
SCALES = {
    **dict.fromkeys(("q4_0", "q5_0", "q8_0", "iq4_nl", "iq4_xs", "iq2_xxs", "iq2_xs"), (0,)),
    **dict.fromkeys(("iq2_s", "iq3_xxs", "iq3_s", "iq1_s"), (0,)),
    **dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)),
    **{"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "tq1_0": (52,), "tq2_0": (64,)},
    **dict.fromkeys(("iq1_m", "mxfp4", "nvfp4"), ()),  # their scales are not f16 in one place
}


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
    if weights.name == "mxfp4":
        blocks[:, :, 0] = rng.integers(118, 122, blocks.shape[:2])
    elif weights.name == "nvfp4":
        blocks[:, :, :4] = rng.integers(0, 0x48, (*blocks.shape[:2], 4))
    elif weights.name == "iq1_m":  # d is 0x1ABC, between 2e-3 and 4e-3, in four nibbles
        blocks[:, :, 49:56:2] = blocks[:, :, 49:56:2] & 15 | np.array([0xC0, 0xB0, 0xA0, 0x10])
    return blocks.reshape(rows, -1)
