"""Drafts by a smaller model of the same vocabulary (Leviathan et al. 2023, Chen et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.models.tokenizer import Vocabulary
from fusec.runtime.drafting.drafter import Drafter, Guess, Row
from fusec.runtime.token_engine import TokenEngine

LEAST = 0.2  # behind the first guess, a chain ends where all of it is less likely than this


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
        self._catch_up()
        found: list[Guess] = []
        token, likely = self._sequence[-1], 1.0
        while len(found) < most:
            logits = self._step(self._decode, [token])["logits"][0]
            token = int(np.argmax(logits))
            confidence = 1 / float(np.exp(logits - logits[token]).sum())  # of the softmax
            likely *= confidence
            if np.isnan(likely) or (found and likely < LEAST):
                break
            found.append(Guess(token, confidence))
        return found

    def close(self) -> None:
        """See `Drafter`."""
        self._engine.close()

    def _catch_up(self) -> None:
        """Have the cache hold all of the sequence but its last token."""
        pairs = zip(self._cached, self._sequence[:-1], strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        with self._decode.cached() as cache:
            if same < cache.oldest(len(self._cached)):  # a window has moved on
                same = 0
            cache.cut(same)
        del self._cached[same:]
        size = self._absorb.plan.tokens
        for i in range(same, len(self._sequence) - 1, size):
            self._step(self._absorb, self._sequence[i : min(i + size, len(self._sequence) - 1)])

    def _step(self, session: Any, ids: Sequence[int]) -> dict[str, Any]:
        places = np.arange(len(self._cached), len(self._cached) + len(ids), dtype=np.int32)
        result: dict[str, Any] = session.step(token=np.asarray(ids, np.int32), pos=places)
        self._cached += ids
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
