"""Tokens to measure with, and the time that a generation and a prompt take."""

from __future__ import annotations

import time

import numpy as np

from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling


def seconds_per_token(
    engine: Engine, prompt: list[int], n: int, sampling: Sampling | None = None
) -> float:
    """Time from the first new token to the n-th, as the caller sees them, over n - 1."""
    tokens = engine.tokens(prompt, n, sampling)
    next(tokens)
    start = time.perf_counter()
    made = sum(1 for _ in tokens)
    assert made == n - 1
    return (time.perf_counter() - start) / made


def seconds_of_prompt(engine: Engine, prompt: list[int]) -> float:
    """Time until the cache holds the tokens of a prompt, from an empty one; no logits are made."""
    engine.reset()
    engine.wait()
    start = time.perf_counter()
    engine.feed(prompt)
    engine.wait()
    return time.perf_counter() - start


def prompt_ids(vocabulary: int, count: int) -> list[int]:
    """A prompt of arbitrary tokens, the same everywhere."""
    return [int(i) for i in np.random.default_rng(0).integers(0, vocabulary, count)]
