"""Drafts by a smaller model of the same vocabulary (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.models.tokenizer import Vocabulary
from fusec.runtime.drafting.chain import greedy, likely, shared
from fusec.runtime.drafting.drafter import Drafter, Guess, Row
from fusec.runtime.token_engine import TokenEngine

Array = np.ndarray[Any, Any]


class ModelDrafter(Drafter):
    """Greedy tokens of a model that has an engine, and so plans and a KV cache, of its own.

    The drafter takes the engine over, and closes it. The confidence is the probability that this
    model gives its token.
    """

    def __init__(self, engine: TokenEngine) -> None:
        self._engine = engine
        self._decode, self._absorb = engine.decode, engine.absorb
        self._sequence: list[int] = []
        self._cached: list[int] = []  # whose keys and values are in the cache

    def begin(self, sequence: Sequence[int]) -> None:
        """See `Drafter`."""
        self._sequence = list(sequence)

    def seen(self, tokens: Sequence[int], rows: Sequence[Row]) -> None:
        """See `Drafter`."""
        self._sequence += tokens

    def propose(self, most: int) -> list[Guess]:
        """See `Drafter`. None where the sequence is longer than this model's context."""
        most = min(most, self._engine.context - len(self._sequence) + 1)
        if most < 1:
            return []
        kept = self._kept()
        if (chain := self._engine.chain) is None:
            found = likely(self._greedy(kept), most)
        else:
            found = likely(chain.guesses(self._sequence, kept, most), most)
        self._cached = [*self._sequence, *(guess.token for guess in found[:-1])]
        return found

    def close(self) -> None:
        """See `Drafter`."""
        self._engine.close()

    def _kept(self) -> int:
        """How many tokens of the sequence the cache has, of all but the last."""
        same = shared(self._cached, self._sequence[:-1])
        with self._decode.cached() as cache:
            if same < cache.oldest(len(self._cached)):  # a window has moved on
                same = 0
            cache.cut(same)
        return same

    def _greedy(self, kept: int) -> Iterator[Guess]:
        """Guesses step by step, once the cache has all but the last token."""
        end, size = len(self._sequence) - 1, self._absorb.plan.tokens
        for first in range(kept, end, size):
            self._step(self._absorb, self._sequence[first : min(first + size, end)], first)
        place = end

        def logits_behind(token: int) -> Array:
            nonlocal place
            place += 1
            logits: Array = self._step(self._decode, [token], place - 1)["logits"][0]
            return logits

        yield from greedy(logits_behind, self._sequence[-1])

    def _step(self, session: Any, ids: Sequence[int], first: int) -> dict[str, Any]:
        places = np.arange(first, first + len(ids), dtype=np.int32)
        result: dict[str, Any] = session.step(token=np.asarray(ids, np.int32), pos=places)
        return result


def check_vocabularies(model: Model, draft: Model) -> None:
    """Raise FusecError unless both models mean the same by every token id."""
    here, there = (Vocabulary(one.file).texts for one in (model, draft))
    what = f"{draft.file.path}: a draft model has to have the vocabulary of {model.file.path}"
    if model.config.vocab != draft.config.vocab:
        raise FusecError(
            f"{what}: expected {model.config.vocab:,} tokens, found {draft.config.vocab:,}"
        )
    for token, (wanted, found) in enumerate(zip(here, there, strict=False)):
        if wanted != found:
            raise FusecError(f"{what}: expected token {token} to be {wanted!r}, found {found!r}")
