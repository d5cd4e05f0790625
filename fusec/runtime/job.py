"""What an engine is asked for: which tokens to make behind which, checked before any work."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusec.arguments import whole
from fusec.errors import FusecError
from fusec.runtime.sampling import Sampling
from fusec.writer import count

Array = np.ndarray[Any, Any]
Ids = str | Sequence[int]
"""Tokens: ids, or a text where there is a tokenizer."""

Processor = Callable[[Sequence[int], Array], Array | None]
"""Is given the tokens so far and float32[vocabulary] logits of what follows them; changes these in
place, or returns others."""


@dataclass(frozen=True)
class Job:
    """A generation: at most `count` tokens behind a sequence. The cache has the first `kept`."""

    sequence: tuple[int, ...]
    count: int
    sampling: Sampling = field(default_factory=Sampling)
    kept: int = 0


@dataclass(frozen=True)
class Chosen:
    """A token, and the float32[vocabulary] logits, as the model made them, that led to it."""

    token: int
    logits: Array


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
    wanted = whole("max_new_tokens", wanted, f"a number of new tokens from 0 to {room}", 0)
    if wanted > room:
        raise FusecError(
            f"{count(prompt, 'prompt token')} and {wanted} new ones do not fit a context of "
            f"{context}: ask for at most {count(room, 'new token')} or a larger context"
        )
    return wanted


def token_ids(ids: Iterable[int] | str, vocabulary: int) -> list[int]:
    """Token ids as a list. Raises FusecError for what is none, and for one out of vocabulary."""
    if isinstance(ids, str | bytes):
        raise FusecError(f"expected token ids, found {type(ids).__name__} {ids[:40]!r}")
    try:
        ids = list(ids)
        if kinds := {type(i).__name__ for i in ids if isinstance(i, bool | np.bool_)}:
            raise TypeError(f"found a {kinds.pop()}")
        tokens = [operator.index(i) for i in ids]
    except TypeError as error:
        raise FusecError(f"expected token ids: {error}") from None
    for token in tokens:
        if not 0 <= token < vocabulary:
            raise FusecError(f"token {token} is out of vocabulary: expected 0 to {vocabulary - 1}")
    return tokens


def processed(processor: Processor | None, ids: Sequence[int], logits: Array) -> Array:
    """What a token is chosen by. Raises FusecError for what cannot be logits."""
    if processor is None:
        return logits
    if not callable(processor):
        raise FusecError(
            f"expected a logits processor as a function of ids and logits, found {processor!r}"
        )
    changed = logits.copy()
    returned = processor(tuple(ids), changed)
    found = np.asarray(changed if returned is None else returned, np.float32)
    wanted = f"the logits processor: expected float32{list(logits.shape)}"
    if found.shape != logits.shape:
        raise FusecError(f"{wanted}, found {list(found.shape)}")
    if not np.isfinite(largest := found.max()):  # NaN where there is one
        raise FusecError(f"{wanted} without NaN, whose largest is finite, found {largest}")
    return found
