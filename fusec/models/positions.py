"""What stretches a model's context: RoPE by YaRN, and queries that grow with the position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Yarn:
    """Positions that are scaled for slow pairs and not for quick ones (YaRN, Peng et al. 2023).

    `factor` times the `original` context; a pair that turns more than `fast` times within that is
    left alone, one that turns less than `slow` times is scaled wholly. `multiplier`: of the
    logarithm that a model has in the scale of its scores instead of in turned queries and keys.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    multiplier: float = 0.0

    def factors(self, dims: int, base: float) -> np.ndarray[Any, Any]:
        """What divides the frequency of each pair, f32[dims / 2]."""

        def pair(turns: float) -> float:
            return dims * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(0, math.floor(pair(self.fast))), min(dims - 1, math.ceil(pair(self.slow)))
        place = (np.arange(dims // 2) - low) / max(0.001, high - low)
        kept = 1 - np.clip(place, 0, 1)
        return (1 / ((1 - kept) / self.factor + kept)).astype(np.float32)

    @property
    def magnitude(self) -> float:
        """Of turned queries and keys."""
        return self.grown(1.0) / self.grown(self.multiplier)

    def grown(self, multiplier: float) -> float:
        """1 + a tenth of the factor's logarithm, times a multiplier."""
        return 1 + 0.1 * multiplier * math.log(self.factor)


@dataclass(frozen=True)
class Temperature:
    """Queries at position p are multiplied by 1 + slope * ln(1 + floor((p + offset) / length))."""

    slope: float
    length: int
    offset: int = 0
