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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusec import driver
from fusec.errors import FusecError, reason
from fusec.models.model import Model
from fusec.runtime.engine import Engine

Array = np.ndarray[Any, Any]
Note = Callable[..., None]

SHORTEST = 4  # tokens of a chunk: the shortest with a token to score and some before it


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
            engines.append(driver.load(file, target, level, length, kv, threads=threads))
            stack.callback(engines[-1].close)
        start = time.perf_counter()
        rows: list[Array] = []
        for part in parts:
            rows.append(chunk_scores([scored_rows(engine, part, bos) for engine in engines], part))
            so_far = perplexity_of(np.concatenate(rows, axis=1)[0].mean())
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
            f"the text has {len(ids)} tokens: expected at least {2 * length}, two chunks; "
            f"--context asks for shorter ones"
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
    """float64[scored, vocabulary]: log-probabilities of what follows, for the scored tokens."""
    given = ids if bos is None else [bos, *ids[1:]]
    logits = engine.logits(given)[len(ids) // 2 : -1].astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def chunk_scores(rows: list[Array], ids: list[int]) -> Array:
    """float64[1 or 3, scored]: each token's loss, and against a base divergence and agreement."""
    model = rows[0]
    wanted = np.array(ids[len(ids) // 2 + 1 :])[:, None]
    scores = [-np.take_along_axis(model, wanted, axis=-1)[:, 0]]
    for base in rows[1:]:
        scores.append((np.exp(base) * (base - model)).sum(axis=-1))
        scores.append((base.argmax(axis=-1) == model.argmax(axis=-1)).astype(np.float64))
    return np.stack(scores)


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


def read_text(path: Path) -> str:
    """A text file. Raises FusecError if it cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise FusecError(f"{path}: expected UTF-8 text, found {error.reason}") from None
