"""The token loop: prompt in, tokens out, over whatever session the backend made."""

from __future__ import annotations

import operator
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
        self._uses = 0  # counts steps and resets, so that a generation notices another's

    def reset(self) -> None:
        """Forget every token."""
        self.position = 0
        self._uses += 1
        self.decode.reset()

    def step(self, token: int) -> Array:
        """Append one token; float32[vocabulary] logits of what follows it."""
        return self._run(self.decode, self._tokens([token]))["logits"][0].copy()

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
        ids, size = self._tokens(ids), self.absorb.plan.tokens
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
        Raises FusecError where prompt and new tokens together do not fit the context, and when the
        engine is used for something else before the generation has ended.
        """
        ids = self.check(ids)
        count = new_tokens(len(ids), max_new_tokens, self.context)
        return self._generate(ids, count, sampling or Sampling())

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
            uses = self._uses
            yield token
            if self._uses != uses:
                raise FusecError("the engine was used for something else during a generation")

    def check(self, ids: Sequence[int]) -> list[int]:
        """The prompt as a list. Raises FusecError if it is empty, too long or out of vocabulary."""
        ids = self._tokens(ids)
        if not ids:
            raise FusecError("the prompt is empty: expected at least one token")
        new_tokens(len(ids), None, self.context)
        return ids

    def _tokens(self, ids: Iterable[int]) -> list[int]:
        try:
            tokens = [operator.index(i) for i in ids]
        except TypeError as error:
            raise FusecError(f"expected token ids: {error}") from None
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise FusecError(
                    f"token {token} is out of vocabulary: expected 0 to {self.vocabulary - 1}"
                )
        return tokens

    def _run(self, session: Session, ids: Sequence[int]) -> dict[str, Array]:
        end = self.position + len(ids)
        if end > self.context:
            raise FusecError(f"position {end - 1} is past the context of {self.context} tokens")
        result = session.step(
            token=np.asarray(ids, np.int32), pos=np.arange(self.position, end, dtype=np.int32)
        )
        self.position = end
        self._uses += 1
        return result

    def close(self) -> None:
        """Give back memory and threads."""
        self.decode.close()


def new_tokens(prompt: int, wanted: int | None, context: int) -> int:
    """How many tokens to make behind `prompt` ones: `wanted`, or (None) all there is room for.

    Raises FusecError where prompt and new tokens together do not fit the context.
    """
    if prompt > context:
        raise FusecError(
            f"the prompt has {prompt} tokens, the context {context}: "
            f"shorten it or ask for a larger context"
        )
    room = context - prompt + 1  # the last new token is never fed back
    if wanted is None:
        return room
    if wanted < 0:
        raise FusecError(f"expected a number of new tokens from 0 to {room}, found {wanted}")
    if wanted > room:
        raise FusecError(
            f"{prompt} prompt tokens and {wanted} new ones do not fit a context of {context}: "
            f"ask for at most {room} new tokens or a larger context"
        )
    return wanted
