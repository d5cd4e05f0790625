"""`fusec perplexity`: how well a model predicts a text, by llama.cpp's definition.

As in llama.cpp's tools/perplexity/perplexity.cpp: the text's tokens are cut into chunks of the
context's length, and what is left over is dropped. Each chunk is read from an empty cache; where
the vocabulary says that a text begins with BOS, BOS takes the place of a chunk's first token. Only
the second half of a chunk is scored, so that every scored token has at least half a context before
it: with n tokens, the tokens n/2 + 1 to n - 1. Perplexity is exp of their mean negative
log-likelihood. The file's last line break does not count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusec import driver
from fusec.errors import FusecError
from fusec.models.model import Model
from fusec.runtime.engine import Engine

Array = np.ndarray[Any, Any]
Note = Callable[..., None]

SHORTEST = 4  # tokens of a chunk: the shortest with a token to score and some before it


@dataclass(frozen=True)
class Perplexity:
    """A measurement. `error` is the standard error of `value`; `scored` counts tokens."""

    value: float
    error: float
    nll: float  # mean negative log-likelihood, nats a token
    context: int
    chunks: int
    scored: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    path: Path,
    text: str,
    *,
    context: int | None = None,
    chunks: int | None = None,
    special: bool = False,
    target: str = "cpu",
    level: int = driver.DEFAULT_LEVEL,
    kv: str = "f16",
    threads: int = 0,
    note: Note = lambda *_: None,
) -> Perplexity:
    """Perplexity of a model file over a text, in its first `chunks` chunks or in all.

    `context` is the length of a chunk: 512, or what the model was trained for if that is less.
    `special`: control tokens written out in the text are those tokens, not text. `note` is told
    the value so far, how many chunks are done, and of how many. Raises FusecError for a text that
    does not fill two chunks, as llama.cpp does, and for options out of range.
    """
    model = Model.open(path)
    length = model.check_context(context, driver.DEFAULT_CONTEXT)
    if length < SHORTEST:
        raise FusecError(f"expected a context from {SHORTEST} tokens, found {length}")
    ids = token_ids(model, text, special)
    if len(ids) < 2 * length:
        raise FusecError(
            f"the text has {len(ids)} tokens: expected at least {2 * length}, two chunks of the "
            f"context; a shorter context can be asked for"
        )
    count = len(ids) // length
    if chunks is not None:
        if chunks < 1:
            raise FusecError(f"expected a number of chunks from 1, found {chunks}")
        count = min(count, chunks)
    bos = model.tokenizer.bos if model.tokenizer.adds_bos else None
    engine = driver.load(path, target, level, length, kv, threads=threads)
    start = time.perf_counter()
    try:
        parts = []
        for i in range(count):
            parts.append(chunk_nll(engine, ids[i * length : (i + 1) * length], bos))
            note(f"{math.exp(np.concatenate(parts).mean()):.4f}", i + 1, count)
    finally:
        engine.close()
    scores = np.concatenate(parts)
    mean, spread = float(scores.mean()), float(scores.std())
    value = math.exp(mean)
    error = value * spread / math.sqrt(max(scores.size - 1, 1))
    seconds = time.perf_counter() - start
    return Perplexity(value, error, mean, length, count, scores.size, seconds)


def token_ids(model: Model, text: str, special: bool) -> list[int]:
    """The text's tokens, a last line break left out, BOS in front where the vocabulary says so."""
    tokenizer = model.tokenizer
    return tokenizer.encode(text.removesuffix("\n"), special=special, bos=tokenizer.adds_bos)


def chunk_nll(engine: Engine, ids: list[int], bos: int | None) -> Array:
    """float64: negative log-likelihood of each scored token of one chunk."""
    first = len(ids) // 2
    given = ids if bos is None else [bos, *ids[1:]]
    logits = engine.logits(given)[first:-1].astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, np.array(ids[first + 1 :])[:, None], axis=-1)[:, 0]
    return np.log(np.exp(logits).sum(axis=-1)) - chosen


def read_text(path: Path) -> str:
    """A text file. Raises FusecError if it cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FusecError(f"{path}: expected UTF-8 text, found {error.reason}") from None
