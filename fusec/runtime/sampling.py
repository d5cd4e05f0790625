"""Choosing the next token from logits, on the host. The steps and their order are llama.cpp's."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np

from fusec.errors import FusecError

Array = np.ndarray[Any, Any]

MAX_SEED = 1 << 64  # the two words of Philox's key

_WORD = 0xFFFFFFFF
OTHERS = ("max_new_tokens", "stop", "logprobs", "processor", "append", "reuse")
"""Options of a generation that are no sampling's, for who mistypes them."""


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 switch those filters off.

    top_p: nucleus sampling, Holtzman et al. 2019. min_p: Nguyen et al. 2024, relative to the most
    likely token. repeat_penalty: Keskar et al. 2019 (CTRL), over the last `repeat_last` tokens.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Real if field.type == "float" else Integral):
                raise FusecError(
                    f"sampling: expected {field.name} as {field.type}, found {value!r}"
                )
        for name, good, wanted in (
            ("temperature", 0 <= self.temperature < float("inf"), "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and up to 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repeat_penalty", 0 < self.repeat_penalty < float("inf"), "above 0"),
            ("repeat_last", self.repeat_last >= 0, "at least 0"),
            ("seed", 0 <= self.seed < MAX_SEED, "from 0 to 2^64 - 1"),
        ):
            if not good:
                raise FusecError(f"sampling: expected {name} {wanted}, found {getattr(self, name)}")

    @property
    def is_argmax(self) -> bool:
        """Whether the choice is the largest logit as it stands."""
        return self.temperature == 0 and self.repeat_penalty == 1


def settled(sampling: Sampling | None, settings: Mapping[str, Any]) -> Sampling:
    """The sampling that is asked for, whole or by its settings.

    Raises FusecError for both at once, and for a setting that is none.
    """
    names = [field.name for field in fields(Sampling)]
    for name in settings:
        if name not in names:
            near = get_close_matches(name, [*names, *OTHERS], 1, 0.5)
            hint = f": did you mean {near[0]}?" if near else ""
            raise FusecError(f"no option '{name}'{hint} (sampling has {', '.join(names)})")
    if sampling is not None and settings:
        raise FusecError(f"sampling is given twice: as a whole and by {', '.join(settings)}")
    if sampling is None:
        return Sampling(**settings)
    if not isinstance(sampling, Sampling):
        raise FusecError(f"expected a Sampling, found {type(sampling).__name__}")
    return sampling


class Sampler:
    """One generation's choices: the same seed, position and logits give the same token.

    `most`: no more than so many candidates are ever kept, as a GPU's sampler does.
    """

    def __init__(self, sampling: Sampling, most: int | None = None) -> None:
        self.sampling, self._most = sampling, most
        self._recent: deque[int] = deque(maxlen=min(sampling.repeat_last, sys.maxsize))

    def accept(self, token: int) -> None:
        """Let the repetition penalty know of a token, of the prompt or generated."""
        self._recent.append(token)

    def choose(self, logits: Array, position: int) -> int:
        """The token at `position`, by float32[vocabulary] logits that `check_finite` has let pass.

        Equal logits are ranked by id. A logit of minus infinity is never chosen. The random number
        is one of the position: neither filters nor drafted tokens shift those that come later.
        """
        scores = self._penalised(logits.astype(np.float64))
        if self.sampling.temperature == 0:
            return int(np.argmax(scores))
        tokens = self._candidates(scores)
        weights = _softmax(scores[tokens], self.sampling.temperature)
        point = uniform(self.sampling.seed, position) * weights.sum()
        chosen = np.searchsorted(np.cumsum(weights), point, side="right")
        return int(tokens[min(chosen, len(tokens) - 1)])

    def _penalised(self, scores: Array) -> Array:
        if self.sampling.repeat_penalty != 1 and self._recent:
            seen = np.unique(self._recent)
            hit, penalty = scores[seen], self.sampling.repeat_penalty
            scores[seen] = np.where(hit > 0, hit / penalty, hit * penalty)
        return scores

    def _candidates(self, scores: Array) -> Array:
        """Tokens that pass top-k, top-p and min-p, most likely first; never none.

        The token that makes the mass top_p is the last, also where the two are equal. So masses
        are compared in float32, as in llama.cpp and on the GPU: ten equal tokens and 0.8 are eight.
        """
        top_k = min(self.sampling.top_k or len(scores), self._most or len(scores))
        tokens = likeliest(scores, top_k)
        weights = np.exp(scores[tokens] - scores[tokens[0]])  # relative to the likeliest
        if self.sampling.top_p < 1:
            mass = np.cumsum(weights).astype(np.float32)
            enough = np.float32(self.sampling.top_p) * mass[-1]
            tokens = tokens[: 1 + int(np.searchsorted(mass, enough))]
            weights = weights[: len(tokens)]
        return tokens[weights >= self.sampling.min_p]


def uniform(seed: int, position: int) -> float:
    """A number from 0 up to 1, a multiple of 2^-24: the same here and in a GPU's sampler.

    It is the first word of Philox4x32-10 (Salmon et al. 2011) with the seed as key and the counter
    (position, 0, 0, 0).
    """
    keys = [seed & _WORD, seed >> 32 & _WORD]
    counter = [position & _WORD, 0, 0, 0]
    for _ in range(10):
        low, high = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            high >> 32 ^ counter[1] ^ keys[0],
            high & _WORD,
            low >> 32 ^ counter[3] ^ keys[1],
            low & _WORD,
        ]
        keys = [keys[0] + 0x9E3779B9 & _WORD, keys[1] + 0xBB67AE85 & _WORD]
    return (counter[0] >> 8) / (1 << 24)


def likeliest(scores: Array, count: int) -> Array:
    """The ids of the `count` largest scores, the largest first, of equal ones the lower."""
    if not count:
        return np.empty(0, np.int64)
    # those above the last score that counts and all that equal it, so that ties are cut by id
    least = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    ids = np.flatnonzero(scores >= least)
    return ids[np.lexsort((ids, -scores[ids]))][:count]


def log_probabilities(logits: Array) -> Array:
    """float64[vocabulary]: the natural logarithm of the softmax of logits."""
    scores = logits.astype(np.float64) - float(logits.max())
    return scores - np.log(np.exp(scores).sum())


def _softmax(scores: Array, temperature: float = 1.0) -> Array:
    with np.errstate(over="ignore"):  # a tiny temperature: the others' weights are 0
        weights = np.exp((scores - scores.max()) / temperature)
    return weights / weights.sum()
