"""Drafts by a block of the model's own file that was trained for it (nextn, MTP).

`fusec.models.nextn` has what it computes: of a token, and of the hidden state that chose it, the
logits of the next token. So it needs what the model left behind every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fusec.ir.plan import HIDDEN
from fusec.runtime.drafting.auto import surer
from fusec.runtime.drafting.chain import greedy, likely, shared
from fusec.runtime.drafting.drafter import Drafter, Guess, Row
from fusec.runtime.drafting.suffix import Suffix
from fusec.runtime.token_engine import TokenEngine

Array = np.ndarray[Any, Any]


class MtpDrafter(Drafter):
    """Greedy tokens of the block, which has an engine, and so plans and a KV cache, of its own.

    `engine`: of `Model.drafting`, which gives out HIDDEN. The drafter takes it over, and closes it.
    The cache has an entry for each token but the first, at the position of the one in front of it.
    The confidence is the probability that the block gives its token.
    """

    reads_hidden: ClassVar[bool] = True

    def __init__(self, engine: TokenEngine) -> None:
        self._engine = engine
        width = engine.decode.plan.inputs["%hidden"].shape[-1]
        self._states = np.zeros((engine.context, width), np.float32)  # by position
        self._sequence: list[int] = []
        self._entered = 0  # entries of the cache that belong to the sequence and its states

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        before, self._sequence = self._sequence, list(sequence)
        same = shared(before, self._sequence)
        self._entered = min(self._entered, max(0, same - 1))

    def read(self, first: int, hidden: Array) -> None:
        """See `Drafter`."""
        self._entered = min(self._entered, first)
        hidden = hidden[: len(self._states) - first]
        self._states[first : first + len(hidden)] = hidden

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`."""
        self._sequence += tokens

    def propose(self, most: int) -> Sequence[Guess]:
        """See `Drafter`. None behind the first token, and none past the context."""
        last = len(self._sequence) - 1
        most = min(most, self._engine.context - last)
        if last < 1 or most < 1:
            return []
        self._catch_up(last - 1)
        state, position = self._states[last - 1 : last], last - 1

        def logits_behind(token: int) -> Array:
            nonlocal state, position
            found = self._step(self._engine.traced, [token], position, state)
            state, position = found[HIDDEN], position + 1
            logits: Array = found["logits"][0]
            return logits

        found = likely(greedy(logits_behind, self._sequence[-1]), most)
        self._entered = last
        return found

    def close(self) -> None:
        """See `Drafter`."""
        self._engine.close()

    def _catch_up(self, end: int) -> None:
        """Have the cache hold the entries in front of position `end`."""
        absorb = self._engine.absorb
        for first in range(self._entered, end, absorb.plan.tokens):
            places = slice(first, min(first + absorb.plan.tokens, end))
            tokens = self._sequence[places.start + 1 : places.stop + 1]
            self._step(absorb, tokens, first, self._states[places])
        self._entered = max(self._entered, end)

    @staticmethod
    def _step(session: Any, tokens: Sequence[int], first: int, states: Array) -> dict[str, Array]:
        """Read tokens, each with the state in front of it."""
        places = np.arange(first, first + len(tokens), dtype=np.int32)
        found: dict[str, Array] = session.step(
            token=np.asarray(tokens, np.int32), pos=places, hidden=states
        )
        return found


class AutoMtp(MtpDrafter):
    """Drafts by suffix match where it is sure, elsewhere by the surer of match and block."""

    def __init__(self, engine: TokenEngine) -> None:
        super().__init__(engine)
        self._suffix = Suffix()

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        super().begin(sequence)
        self._suffix.begin(sequence)

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`."""
        super().seen(tokens, rows)
        self._suffix.seen(tokens, rows)

    def propose(self, most: int) -> Sequence[Guess]:
        """See `Drafter`."""
        return surer(self._suffix, super().propose, most)
