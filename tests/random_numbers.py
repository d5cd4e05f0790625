"""Random numbers that are the same ones for a test whichever tests ran in front of it."""

from __future__ import annotations

from typing import Any

import numpy as np

_GENERATORS: list[tuple[np.random.Generator, Any]] = []


def random_numbers(seed: int) -> np.random.Generator:
    """A module's own generator, which begins again with each test."""
    generator = np.random.default_rng(seed)
    _GENERATORS.append((generator, generator.bit_generator.state))
    return generator


def begin_again() -> None:
    for generator, start in _GENERATORS:
        generator.bit_generator.state = start
