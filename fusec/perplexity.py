"""`fusec perplexity`: how well a model predicts a text, by llama.cpp's definition.

As in llama.cpp's tools/perplexity/perplexity.cpp: the text's tokens are cut into chunks of the
context's length, and what is left over is dropped. Each chunk is read from an empty cache; where
the vocabulary says that a text begins with BOS, BOS takes the place of a chunk's first token. Only
the second half of a chunk is scored, so that every scored token has at least half a context before
it: with n tokens, the tokens n/2 + 1 to n - 1. Perplexity is exp of their mean negative
log-likelihood. The file's last line break does not count.

Against a base model, usually the same one before quantisation: the mean Kullback-Leibler divergence
of the base's predictions from the model's over the same tokens, and how often both have the same
likeliest token. It tells formats apart where perplexity hardly does.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusec import driver
from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.runtime.engine import Engine
from fusec.writer import count

Array = np.ndarray[Any, Any]
Note = Callable[..., None]

SHORTEST = 4  # tokens of a chunk: the shortest with a token to score and some before it
BLOCK = 1 << 16  # logits looked at together: what is made of them stays in a core's cache


@dataclass(frozen=True)
class Perplexity:
    """A measurement. `error` is the standard error of `value`; `scored` counts tokens.

    `divergence` (nats a token, with its standard error) and `same_top` (a share) are against the
    base model, None without one.
    """

    value: float
    error: float
    nll: float  # mean negative log-likelihood, nats a token
    context: int
    chunks: int
    scored: int
    seconds: float
    divergence: float | None = None
    divergence_error: float | None = None
    same_top: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    path: Path,
    text: str,
    *,
    base: Path | None = None,
    context: int | None = None,
    chunks: int | None = None,
    special: bool = False,
    target: str = "cpu",
    level: int | None = None,
    kv: str = "f16",
    threads: int = 0,
    disable: Iterable[str] = (),
    note: Note = lambda *_: None,
) -> Perplexity:
    """Perplexity of a model file over a text, in its first `chunks` chunks or in all.

    `context` is the length of a chunk: 512, or what the model was trained for if that is less.
    `special`: control tokens written out in the text are those tokens, not text. `note` is told
    the value so far, how many chunks are done, and of how many. Raises FusecError for a text that
    does not fill two chunks, as llama.cpp does, for options out of range, for a base model with
    another vocabulary, and where logits or the perplexity are not finite.
    """
    model = Model.open(path)
    length = model.check_context(context, driver.DEFAULT_CONTEXT)
    if length < SHORTEST:
        raise FusecError(f"--context: expected {SHORTEST} tokens or more, found {length}")
    parts = chunk_ids(model, text, special, length, chunks)
    if base is not None:
        check_base(model, Model.open(base), length)
    bos = model.tokenizer.bos if model.tokenizer.adds_bos else None
    with ExitStack() as stack:
        engines = []
        for file in (path, *([] if base is None else [base])):
            engines.append(
                driver.load(file, target, level, length, kv, threads=threads, disable=disable)
            )
            stack.callback(engines[-1].close)
        start = time.perf_counter()
        rows: list[Array] = []
        total = 0.0
        for part in parts:
            rows.append(chunk_scores([scored_rows(engine, part, bos) for engine in engines], part))
            total += float(rows[-1][0].sum())
            so_far = perplexity_of(total / (len(rows) * rows[-1].shape[1]))
            note(f"{so_far:.4f}", len(rows), len(parts))
        seconds = time.perf_counter() - start
    scores = np.concatenate(rows, axis=1)
    nll, error = mean_and_error(scores[0])
    against: tuple[float | None, ...] = (None, None, None)
    if base is not None:
        against = (*mean_and_error(scores[1]), float(scores[2].mean()))
    value = perplexity_of(nll)
    found = value, value * error, nll, length, len(parts), scores.shape[1], seconds
    return Perplexity(*found, *against)


def chunk_ids(
    model: Model, text: str, special: bool, length: int, chunks: int | None
) -> list[list[int]]:
    """The text's tokens in whole chunks, BOS in front where the vocabulary says so."""
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text.removesuffix("\n"), special=special, bos=tokenizer.adds_bos)
    if chunks is not None and chunks < 1:
        raise FusecError(f"--chunks: expected a number from 1, found {chunks}")
    if len(ids) < 2 * length:
        raise FusecError(
            f"the text has {count(len(ids), 'token')}, expected at least {2 * length}, two chunks: "
            f"take a longer text, or shorter chunks (--context)"
        )
    cut: Iterator[list[int]] = (
        ids[i : i + length] for i in range(0, len(ids) - length + 1, length)
    )
    return list(cut)[:chunks]


def check_base(model: Model, base: Model, length: int) -> None:
    """Raise FusecError unless both models give probabilities to the same tokens."""
    base.check_context(length, length)
    key = "tokenizer.ggml.tokens"
    if base.file.get(key, list, []) != model.file.get(key, list, []):
        raise FusecError(
            f"{base.file.path}: expected the vocabulary of {model.file.path}, found another"
        )


def scored_rows(engine: Engine, ids: list[int], bos: int | None) -> Array:
    """float32[scored, vocabulary]: logits of what follows, for the scored tokens.

    The chunk goes in the widest steps that the engine takes: 512 tokens on a GPU are one.
    """
    given = ids if bos is None else [bos, *ids[1:]]
    return engine.logits(given)[len(ids) // 2 : -1]


def chunk_scores(rows: list[Array], ids: list[int]) -> Array:
    """float64[1 or 3, scored]: each token's loss, and against a base divergence and agreement.

    `rows`: float32[scored, vocabulary] logits of the model, and of a base if there is one.
    """
    wanted = np.array(ids[len(ids) // 2 + 1 :])
    scores = np.empty((2 * len(rows) - 1, len(wanted)))
    size = max(1, BLOCK // rows[0].shape[1])
    for first in range(0, len(wanted), size):
        block = slice(first, first + size)
        model, *bases = (logits[block] for logits in rows)
        _, log_sums = powers(model)
        of_wanted = np.take_along_axis(model, wanted[block, None], axis=-1)[:, 0]
        scores[0, block] = log_sums - of_wanted
        for base in bases:
            weights, base_sums = powers(base)
            scores[1, block] = mean(base - model, weights) + log_sums - base_sums
            scores[2, block] = base.argmax(axis=-1) == model.argmax(axis=-1)
    return scores


def powers(logits: Array) -> tuple[Array, Array]:
    """float32[rows, vocabulary] exp(logit - the row's largest); float64[rows] log of sum of exp.

    Only sums are float64, for speed: the errors of the exponentials cancel out in them, and such a
    logarithm is within 1e-7 of what float64 gives.
    """
    top = logits.max(axis=-1, keepdims=True)
    found = logits - top
    np.exp(found, out=found)
    return found, np.log(found.sum(axis=-1, dtype=np.float64)) + top[:, 0]


def mean(values: Array, weights: Array) -> Array:
    """float64[rows]: the weighted mean of each row."""
    total = weights.sum(axis=-1, dtype=np.float64)
    return (values * weights).sum(axis=-1, dtype=np.float64) / total


def perplexity_of(nll: float) -> float:
    """exp of a mean loss in nats. Raises FusecError where that is not a finite number."""
    if math.isfinite(nll) and nll < math.log(sys.float_info.max):
        return math.exp(nll)
    raise FusecError(
        f"the perplexity is not finite: the text's tokens have a mean loss of {nll:.6g} nats, so "
        f"the model rules some of them out"
    )


def mean_and_error(values: Array) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(max(values.size - 1, 1))
