"""What the tiny model has at each level."""

from __future__ import annotations

LAYERS = 8  # of the tiny model
PER_LAYER = {0: 18, 1: 10, 2: 6, 3: 5, 4: 5}  # on the CPU
FORWARD = {level: each * LAYERS + (1 if level else 2) for level, each in PER_LAYER.items()}
APART = {"embed": 1, "sample": 1}
OTHER = {0: APART, 1: APART, 2: APART, 3: {"sample": 1}, 4: {"sample": 1}}
O2_PASSES = [
    *(
        "decode-graph",
        "place-weights",
        "split-products",
        "factor-norms",
        "group-experts",
        "fix-vectors",
    ),
    "fuse-stack",
    *("fuse-chain-to-fixed", "fuse-prologue", "fuse-pairs", "fuse-stores"),
    *("fuse-chain", "fuse-epilogue", "fuse-vectors", "fuse-chain-to-store", "schedule"),
]
