"""Guesses of something that computes logits: its likeliest tokens, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from fusec.runtime.drafting.drafter import Guess

Array = np.ndarray[Any, Any]

LEAST = 0.2  # behind the first guess, a chain ends where all of it is less likely than this


class Chained(Protocol):
    """An engine's own way to make them."""

    def guesses(self, sequence: Sequence[int], kept: int, count: int) -> Iterator[Guess]:
        """Greedy tokens behind a sequence, of which the cache has the first `kept`.

        Then it has all of it, and the tokens that were taken, but for the last.
        """


def greedy(logits_behind: Callable[[int], Array], token: int) -> Iterator[Guess]:
    """The likeliest tokens behind a token, without end, each with its probability.

    `logits_behind` reads a token, which follows the last one that it has read, and gives
    float32[vocabulary].
    """
    while True:
        logits = logits_behind(token)
        token = int(np.argmax(logits))
        yield Guess(token, 1 / float(np.exp(logits - logits[token]).sum()))


def likely(guesses: Iterable[Guess], most: int) -> list[Guess]:
    """At most so many of them, up to where they are hardly ever all right, or are no numbers."""
    found: list[Guess] = []
    chance = 1.0
    for guess in guesses:
        chance *= guess.confidence
        if np.isnan(chance) or (found and chance < LEAST):
            break
        found.append(guess)
        if len(found) == most:
            break
    return found


def shared(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with, by comparing halves of what is left."""
    same, end = 0, min(len(a), len(b))
    while same < end:
        middle = (same + end + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same
