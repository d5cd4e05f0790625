"""What the tiny model has at each level."""

from __future__ import annotations

LAYERS = 8  # of the tiny model
FORWARD = {0: 18 * LAYERS + 2, 1: 10 * LAYERS + 1, 2: 6 * LAYERS + 1, 3: 5 * LAYERS + 1}
PER_LAYER = {0: 18, 1: 10, 2: 6, 3: 5}
APART = {"embed": 1, "sample": 1}
OTHER = {0: APART, 1: APART, 2: APART, 3: {"sample": 1}}
O2_PASSES = [
    *("decode-graph", "place-weights", "factor-norms", "group-experts", "fix-vectors"),
    "fuse-stack",
    *("fuse-chain-to-fixed", "fuse-prologue", "fuse-pairs", "fuse-stores"),
    *("fuse-chain", "fuse-epilogue", "fuse-vectors", "fuse-chain-to-store", "schedule"),
]
