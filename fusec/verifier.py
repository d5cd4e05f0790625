"""`fusec verify`: is what the kernels compute what the graph means, at every level?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fusec import backends, driver
from fusec.codegen import pool
from fusec.errors import FusecError
from fusec.ir.ops import picks_rows
from fusec.ir.reference import Reference
from fusec.models.model import Model
from fusec.passes.pipeline import LEVELS, passes_of
from fusec.report import make_table
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import MAX_SEED

BOUNDS = {"f16": 1e-3, "f32": 1e-4}
"""Largest relative error of the logits allowed, by type of the KV cache (docs/numbers.md)."""

DEFAULT_TOKENS = 24

WIDTHS = {"cuda": (1, 2, 5, 8, 16, 17, 64, 512)}
"""`Backend.family` -> widths of steps to compare: what is launched differs from one to the next.

On the CPU it is the same for all, and `Verdict.chunked` is enough.
"""


@dataclass(frozen=True)
class Verdict:
    """One level and KV type. `error`: norm of the difference over the norm, float64 reference.

    `bound`: the largest allowed; None if any is.

    `same`: bytes equal to -O0's. `chunked`: bytes equal whether tokens go one by one or in chunks.
    `widths`: the same for chunks of so many tokens, where WIDTHS has some for the target.
    `greedy`: the largest logit is the reference's wherever its top two are further apart than that.
    """

    level: int
    kv: str
    error: float
    bound: float | None
    same: bool
    chunked: bool
    greedy: bool
    widths: dict[int, bool] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all of it holds. An error that is not a number does not."""
        close = self.error <= (math.inf if self.bound is None else self.bound) and self.greedy
        return close and self.same and self.chunked and all(self.widths.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}

    def cells(self) -> tuple[str, ...]:
        """A row of `verdict_table`."""
        told = ("differs", "same")
        greedy = "agrees" if self.greedy else "differs"
        bound = "any" if self.bound is None else f"{self.bound:.0e}"
        numbers = (f"-O{self.level}", self.kv, f"{self.error:.2e}", bound)
        flags = [told[self.same], told[self.chunked]]
        if self.widths:
            wrong = ", ".join(str(width) for width, same in self.widths.items() if not same)
            flags.append(f"differs: {wrong}" if wrong else "same")
        return (*numbers, *flags, greedy, "ok" if self.ok else "WRONG")


@pool.kept()
def check(
    path: Path,
    *,
    level: int | None = None,
    context: int | None = None,
    kinds: tuple[str, ...] = ("f16", "f32"),
    tokens: int | None = None,
    seed: int = 0,
    target: str = "cpu",
    disable: Iterable[str] = (),
    note: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Verdicts for one level (beside -O0) or all, over a random prompt of `tokens` tokens.

    The default is DEFAULT_TOKENS, or fewer where the context is shorter. Widths are compared over
    as many tokens as the widest takes. `disable`: rules and passes left out, of -O0 as well, since
    one that rounds otherwise runs at every level or at none. Raises FusecError for anything unknown
    or out of range, before it computes, and for logits that are not finite.
    """
    backend, disable = backends.get(target), tuple(disable)
    model = Model.open(path)
    context = model.check_context(context, driver.DEFAULT_CONTEXT)
    tokens = min(DEFAULT_TOKENS, context) if tokens is None else tokens
    passes_of(0 if level is None else level, disable=disable)
    if unknown := [kind for kind in kinds if kind not in BOUNDS]:
        raise FusecError(f"unknown KV cache type '{unknown[0]}': known are {', '.join(BOUNDS)}")
    if not 1 <= tokens <= context:
        raise FusecError(f"--tokens: expected 1 to {context}, the context, found {tokens}")
    if not 0 <= seed < MAX_SEED:
        raise FusecError(f"--seed: expected 0 to 2^64 - 1, found {seed}")
    random = np.random.default_rng(seed)
    ids = [int(i) for i in random.integers(0, model.config.vocab, tokens)]
    widest = min(backend.prefill_tokens, context)
    widths = [width for width in WIDTHS.get(backend.family, ()) if width <= widest]
    more = max([0, *widths]) - tokens
    longer = ids + [int(i) for i in random.integers(0, model.config.vocab, max(0, more))]
    note("reference")
    wanted = reference_logits(model, ids, context)
    levels = sorted(LEVELS) if level is None else sorted({0, level})
    verdicts = []
    for kind in kinds:
        first: np.ndarray[Any, Any] | None = None
        for each in levels:
            note(f"-O{each} {kind}")
            with driver.load(path, target, each, context, kind, disable=disable) as engine:
                found = engine.logits(ids)
                single = one_by_one(engine, longer)
                same = {width: agrees(engine, longer, width, single) for width in widths}
            first = found if first is None else first
            verdicts.append(
                Verdict(
                    each,
                    kind,
                    relative_error(found, wanted),
                    bound_of(model, kind),
                    found.tobytes() == first.tobytes(),
                    found.tobytes() == single[:tokens].tobytes(),
                    same_choice(found, wanted),
                    same,
                )
            )
    return verdicts


def bound_of(model: Model, kind: str) -> float | None:
    """The largest relative error allowed.

    There is none where an f16 cache may decide between two experts otherwise than the reference.
    """
    picks = any(map(picks_rows, model.graph(tokens=1, context=1).nodes))
    return None if picks and kind == "f16" else BOUNDS[kind]


def verdict_table(title: str, verdicts: list[Verdict]) -> Table:
    """The verdicts for people."""
    table = make_table(title)
    heads = ["level", "kv", "relative error", "allowed", "as -O0", "chunked", "greedy", ""]
    widths = [width for verdict in verdicts[:1] for width in verdict.widths]
    if widths:
        heads.insert(6, "widths")
        table.caption = f"widths: in steps of {', '.join(map(str, widths))} tokens"
        table.caption_justify = "left"
    for head in heads:
        table.add_column(head)
    for verdict in verdicts:
        table.add_row(*verdict.cells())
    return table


def one_by_one(engine: Engine, ids: list[int]) -> np.ndarray[Any, Any]:
    """float32[len(ids), vocabulary]: logits after each token, each a step of its own."""
    engine.reset()
    return np.stack([engine.step(i) for i in ids])


def agrees(engine: Engine, ids: list[int], width: int, single: np.ndarray[Any, Any]) -> bool:
    """Whether steps of `width` tokens give the bytes of `single`, those of `one_by_one`.

    Steps that make logits for each token, and steps that only fill the cache, as a prompt does:
    there, the logits after the last token tell.
    """
    if engine.logits(ids, width).tobytes() != single.tobytes():
        return False
    engine.reset()
    prompt = ids[:-1]
    for i in range(0, len(prompt), width):
        engine.feed(prompt[i : i + width])
    return engine.step(ids[-1]).tobytes() == single[-1].tobytes()


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
