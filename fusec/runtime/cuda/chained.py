"""A draft model's guesses on a GPU: its token loop runs ahead and says how likely tokens are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fusec.codegen.cuda.control import NO_TOKEN, RING
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.drafting import Guess

KERNELS = ("weigh",)
AHEAD = 1
"""Graphs enqueued ahead of the token that is waited for: few, as a chain may end at any token."""


class Chain:
    """Beside a `TokenLoop`, whose graphs and counter of tokens it uses."""

    def __init__(self, loop: TokenLoop) -> None:
        self._loop = loop
        self.workspace = loop.workspace
        self.workspace.need(KERNELS)
        self._weights, self._there = self.workspace.memory.pinned(RING, np.dtype(np.uint64))

    def guesses(self, sequence: Sequence[int], kept: int, count: int) -> Iterator[Guess]:
        """Yield the greedy tokens that follow a sequence, each with its probability.

        The cache has the first `kept` tokens already. It will have the others too, and the tokens
        that were taken, but for the last. Ends where the logits are not finite.
        """
        loop = self._loop
        with self.workspace.turns.take():
            self.workspace.enter()
            loop.go_on(sequence, kept)
        first = loop.steps
        for done in range(count):
            with self.workspace.turns.take():
                self.workspace.enter()
                loop.ahead(first + min(done + 1 + AHEAD, count), "weighed", self._enqueue)
                token = loop.take(first + done, naps=False)
                weight = loop.wait_for(self._weights, first + done, naps=False)
            if token == NO_TOKEN:
                return
            yield Guess(token, float(np.uint32(weight).view(np.float32)))

    def _enqueue(self) -> None:
        """A greedy token, and its probability."""
        loop = self._loop
        loop.enqueue_greedy()
        arguments = (loop.logits, loop.chosen, loop.counter, self._there)
        self.workspace.launch("weigh", arguments, loop.decode.plan.overlaps)
