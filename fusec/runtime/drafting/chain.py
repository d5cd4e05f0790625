"""Guesses of something that computes logits: its likeliest tokens, one behind the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fusec.runtime.drafting.drafter import Guess

Array = np.ndarray[Any, Any]

LEAST = 0.2  # behind the first guess, a chain ends where all of it is less likely than this


def chain(logits_behind: Callable[[int], Array], token: int, most: int) -> list[Guess]:
    """At most so many guesses behind a token; the confidence is the probability of each.

    `logits_behind` reads a token, which follows the last one that it has read, and gives
    float32[vocabulary].
    """
    found: list[Guess] = []
    likely = 1.0
    while len(found) < most:
        logits = logits_behind(token)
        token = int(np.argmax(logits))
        confidence = 1 / float(np.exp(logits - logits[token]).sum())  # of the softmax
        likely *= confidence
        if np.isnan(likely) or (found and likely < LEAST):
            break
        found.append(Guess(token, confidence))
    return found
