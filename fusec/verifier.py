"""`fusec verify`: is what the kernels compute what the graph means, at every level?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fusec import backends, driver
from fusec.errors import FusecError
from fusec.ir.reference import Reference
from fusec.models.model import Model
from fusec.passes.pipeline import LEVELS
from fusec.report import make_table
from fusec.runtime.sampling import MAX_SEED

BOUNDS = {"f16": 1e-3, "f32": 1e-4}
"""Largest relative error of the logits allowed, by type of the KV cache (docs/numbers.md)."""

DEFAULT_TOKENS = 24


@dataclass(frozen=True)
class Verdict:
    """One level and KV type. `error`: norm of the difference over the norm, float64 reference.

    `same`: bytes equal to -O0's. `chunked`: bytes equal whether tokens go one by one or in chunks.
    `greedy`: the largest logit is the reference's wherever its top two are further apart than that.
    """

    level: int
    kv: str
    error: float
    bound: float
    same: bool
    chunked: bool
    greedy: bool

    @property
    def ok(self) -> bool:
        """Whether all of it holds. An error that is not a number does not."""
        return self.error <= self.bound and self.same and self.chunked and self.greedy

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}

    def cells(self) -> tuple[str, ...]:
        """A row of `verdict_table`."""
        told = ("differs", "same")
        greedy = "agrees" if self.greedy else "differs"
        numbers = (f"-O{self.level}", self.kv, f"{self.error:.2e}", f"{self.bound:.0e}")
        flags = (told[self.same], told[self.chunked], greedy, "ok" if self.ok else "WRONG")
        return (*numbers, *flags)


def check(
    path: Path,
    *,
    level: int | None = None,
    context: int | None = None,
    kinds: tuple[str, ...] = ("f16", "f32"),
    tokens: int | None = None,
    seed: int = 0,
    target: str = "cpu",
    note: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Verdicts for one level (beside -O0) or all, over a random prompt of `tokens` tokens.

    The default is DEFAULT_TOKENS, or fewer where the context is shorter. Raises FusecError for
    anything unknown or out of range, before it computes, and for logits that are not finite.
    """
    backends.get(target)
    model = Model.open(path)
    context = model.check_context(context, driver.DEFAULT_CONTEXT)
    tokens = min(DEFAULT_TOKENS, context) if tokens is None else tokens
    if level is not None and level not in LEVELS:
        raise FusecError(f"unknown level -O{level}: known are {', '.join(map(str, LEVELS))}")
    if unknown := [kind for kind in kinds if kind not in BOUNDS]:
        raise FusecError(f"unknown KV cache type '{unknown[0]}': known are {', '.join(BOUNDS)}")
    if not 1 <= tokens <= context:
        raise FusecError(f"expected 1 to {context} tokens, the context, found {tokens}")
    if not 0 <= seed < MAX_SEED:
        raise FusecError(f"expected a seed from 0 to 2^128 - 1, found {seed}")
    random = np.random.default_rng(seed)
    ids = [int(i) for i in random.integers(0, model.config.vocab, tokens)]
    note("reference")
    wanted = reference_logits(model, ids, context)
    levels = sorted(LEVELS) if level is None else sorted({0, level})
    verdicts = []
    for kind in kinds:
        first: np.ndarray[Any, Any] | None = None
        for each in levels:
            note(f"-O{each} {kind}")
            with driver.load(path, target=target, level=each, context=context, kv=kind) as engine:
                found = engine.logits(ids)
                engine.reset()
                single = np.stack([engine.step(i) for i in ids])
            first = found if first is None else first
            verdicts.append(
                Verdict(
                    each,
                    kind,
                    relative_error(found, wanted),
                    BOUNDS[kind],
                    found.tobytes() == first.tobytes(),
                    found.tobytes() == single.tobytes(),
                    same_choice(found, wanted),
                )
            )
    return verdicts


def verdict_table(title: str, verdicts: list[Verdict]) -> Table:
    """The verdicts for people."""
    table = make_table(title)
    for head in ("level", "kv", "relative error", "allowed", "as -O0", "chunked", "greedy", ""):
        table.add_column(head)
    for verdict in verdicts:
        table.add_row(*verdict.cells())
    return table


def reference_logits(model: Model, ids: list[int], context: int) -> np.ndarray[Any, Any]:
    """float64[len(ids), vocabulary] by the reference interpreter, all tokens in one step."""
    graph = model.graph(tokens=len(ids), context=context)
    reference = Reference(graph, model.floats)
    result = reference.step(token=np.array(ids), pos=np.arange(len(ids)))
    return result["logits"]


def relative_error(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def same_choice(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    """Whether greedy tokens agree wherever the reference's margin is larger than the error."""
    top = np.sort(wanted, axis=-1)
    clear = top[:, -1] - top[:, -2] > 2 * np.abs(found - wanted).max(axis=-1)
    return bool(np.all((found.argmax(-1) == wanted.argmax(-1))[clear]))
