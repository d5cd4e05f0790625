"""The token loop: prompt in, tokens out, over whatever session the backend made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.runtime.sampling import Sampler, Sampling
from fusec.runtime.session import Session

Array = np.ndarray[Any, Any]


class Engine:
    """A model ready to generate.

    `decode` steps one token. `prefill` steps up to its plan's T tokens and `absorb` does so without
    computing logits, for the prompt; all share one KV cache of `context` positions.
    """

    def __init__(
        self,
        decode: Session,
        prefill: Session,
        absorb: Session,
        *,
        context: int,
        stop: Iterable[int] = (),
    ) -> None:
        self.decode, self.prefill, self.absorb = decode, prefill, absorb
        self.context, self.stop = context, frozenset(stop)
        self.vocabulary = decode.plan.outputs["%logits"].shape[-1]
        self.position = 0

    def reset(self) -> None:
        """Forget every token."""
        self.position = 0
        self.decode.reset()

    def step(self, token: int) -> Array:
        """Append one token; float32[vocabulary] logits of what follows it."""
        return self._run(self.decode, [token])["logits"][0].copy()

    def logits(self, ids: Sequence[int]) -> Array:
        """float32[len(ids), vocabulary]: logits after each token, from an empty cache."""
        ids = self.check(ids)
        self.reset()
        size = self.prefill.plan.tokens
        parts = [
            self._run(self.prefill, ids[i : i + size])["logits"].copy()
            for i in range(0, len(ids), size)
        ]
        return np.concatenate(parts)

    def feed(self, ids: Sequence[int]) -> None:
        """Append tokens to the cache without asking what follows them."""
        size = self.absorb.plan.tokens
        for i in range(0, len(ids), size):
            self._run(self.absorb, ids[i : i + size])

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[int]:
        """Yield the tokens that follow `ids`, from an empty cache.

        Ends after `max_new_tokens` (default: when the context is full) or in front of a stop token.
        Raises FusecError where prompt and new tokens together do not fit the context.
        """
        ids = self.check(ids)
        room = self.context - len(ids) + 1  # the last new token is never fed back
        wanted = room if max_new_tokens is None else max_new_tokens
        if wanted > room:
            raise FusecError(
                f"{len(ids)} prompt tokens and {wanted} new ones do not fit a context of "
                f"{self.context}: ask for at most {room} new tokens or a larger --context"
            )
        return self._generate(ids, wanted, sampling or Sampling())

    def _generate(self, ids: Sequence[int], count: int, sampling: Sampling) -> Iterator[int]:
        self.reset()
        sampler = Sampler(sampling)
        for token in ids:
            sampler.accept(token)
        if count:
            self.feed(ids[:-1])
        token = ids[-1]
        for _ in range(count):
            result = self._run(self.decode, [token])
            token = (
                int(result["next"][0])
                if sampling.is_argmax
                else sampler.choose(result["logits"][0])
            )
            if token in self.stop:
                return
            sampler.accept(token)
            yield token

    def check(self, ids: Sequence[int]) -> list[int]:
        """The prompt as a list. Raises FusecError if it is empty, too long or out of vocabulary."""
        ids = [int(i) for i in ids]
        if not ids:
            raise FusecError("the prompt is empty: expected at least one token")
        for token in ids:
            self._check_token(token)
        if len(ids) > self.context:
            raise FusecError(
                f"the prompt has {len(ids)} tokens, the context {self.context}: "
                f"shorten it or ask for a larger --context"
            )
        return ids

    def _check_token(self, token: int) -> None:
        if not 0 <= token < self.vocabulary:
            raise FusecError(
                f"token {token} is out of vocabulary: expected 0 to {self.vocabulary - 1}"
            )

    def _run(self, session: Session, ids: Sequence[int]) -> dict[str, Array]:
        for token in ids:
            self._check_token(token)
        end = self.position + len(ids)
        if end > self.context:
            raise FusecError(f"position {end - 1} is past the context of {self.context} tokens")
        result = session.step(
            token=np.asarray(ids, np.int32), pos=np.arange(self.position, end, dtype=np.int32)
        )
        self.position = end
        return result

    def close(self) -> None:
        """Give back memory and threads."""
        self.decode.close()
