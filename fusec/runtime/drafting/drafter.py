"""What a drafter is: it guesses the tokens that come next, and a step of several rows checks them.

A drafter cannot change what is generated, only how many steps that takes: a guess that is not the
token the model would have chosen is dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Guess(NamedTuple):
    """A token that may come next.

    `confidence`: from 0 to 1, how likely the drafter takes it to be right if those before it are.
    What such a confidence is worth is measured, so that it only has to rank guesses.
    """

    token: int
    confidence: float


class Row(NamedTuple):
    """A row of a step: the token that was read, and the likeliest next one by its logits.

    Rows behind a wrong guess are among them: their tokens are in no sequence, yet the model was
    asked about them.
    """

    token: int
    best: int


class Drafter(ABC):
    """Guesses how a sequence goes on. One is used by one engine at a time.

    `begin`, then `seen` and `propose` in turns. Not every `seen` is followed by a `propose`: while
    guesses are not worth their time, nobody asks. One that `reads_hidden` is told of every step of
    the model by `read`.
    """

    reads_hidden: ClassVar[bool] = False

    @abstractmethod
    def begin(self, sequence: Sequence[int]) -> None:
        """A generation starts behind these tokens. Only they count, not an earlier sequence's."""

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:  # noqa: B027 (optional)
        """A step was made: the sequence goes on with `tokens`, and these rows were computed.

        The first row has read the token that the sequence ended with.
        """

    def read(self, first: int, hidden: Array) -> None:  # noqa: B027 (optional)
        """The model has read what stands at the positions from `first` on.

        `hidden`: float32[rows, width] of what goes into the output matrix, rows behind wrong
        guesses among them: the next step begins where these do.
        """

    @abstractmethod
    def propose(self, most: int) -> Sequence[Guess]:
        """At most so many tokens (1 or more), one behind the other; none where it has no idea."""

    def close(self) -> None:  # noqa: B027 (optional)
        """Give back memory and threads, with the engine that uses it. Twice is fine."""
