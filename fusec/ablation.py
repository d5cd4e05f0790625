"""What each rule and pass is worth: a model compiled without it, beside the whole pipeline.

Rules and passes are left out one at a time, and at the end all of them at once. Launches of a token
are counted and its time is measured, in turns with the whole pipeline's, A B B A, so that a clock
that drifts or a neighbour on the machine does to both what it does to one. A row's turns are spread
over the whole run, all of them with one engine where memory holds the engines of all rows. Logits
are compared bit by bit. Where the target's GPU is not in this machine, the cost model predicts the
time, and no logits are made.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fusec import driver
from fusec.bench.opened import Opened
from fusec.bench.search import Pair, turns
from fusec.bench.tokens import prompt_ids, seconds_per_token
from fusec.codegen import pool
from fusec.driver import DEFAULT_CONTEXT, Compiled
from fusec.errors import FusecError, unknown
from fusec.models.model import Model
from fusec.passes import cost
from fusec.passes.fuse import Fuse
from fusec.passes.pipeline import name_of, passes_of
from fusec.passes.rule import Rule
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling

Array = np.ndarray[Any, Any]
Case = tuple[str, tuple[str, ...]]
"""A row's name, and what is left out."""

WHOLE, ALL = "none", "all"
"""What the rows are called that leave out nothing, and everything."""
SHOWN = {WHOLE: "nothing", ALL: "all of these"}
"""How the table calls those rows."""
GROUPS = ("rules", "passes")
"""Words for the rules that merge nodes, and for the passes that do something else."""
PROMPT = 16  # tokens that logits are compared over, and that new ones are made behind
AGREE = 5  # turns that have to agree on which is faster: by luck they do so once in 16 times
FEWEST, SECONDS = 8, 0.1  # new tokens of a measurement, and how long it takes where it can


@dataclass(frozen=True)
class Ablation:
    """A model without some of its rules and passes.

    `name`: the one that is left out, "none" (the whole pipeline) or "all". `hits`: how often it
    applied in the whole pipeline, of a token's step. `dispatches`: all launches of a token.
    `changed`: whether anything is launched otherwise than by the whole pipeline; where nothing is,
    nothing is measured either.

    `us`: microseconds a token, the median; `ratio`: over the whole pipeline's, the median of pairs
    that were measured one after the other, and `spread` the range of the pairs' ratios; `clear`:
    whether at least 5 pairs were measured and all agree on which is faster. Both are None where the
    time is not `measured` but predicted by the cost model.
    `difference`: the largest absolute difference of a logit from the whole pipeline's, and `same`
    whether all bytes are equal; None where nothing ran.
    """

    name: str
    disabled: tuple[str, ...]
    hits: int
    dispatches: int
    changed: bool
    us: float
    ratio: float
    measured: bool
    spread: float | None = None
    clear: bool | None = None
    difference: float | None = None
    same: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """A row of the table that `fusec ablate` prints."""
        spread = f" ± {self.spread / 2:.3f}" if self.spread else ""
        doubt = " ?" if self.changed and self.clear is False else ""
        is_new = self.changed or self.name == WHOLE
        time = (f"{self.us:,.1f}", f"{self.ratio:.3f}{spread}{doubt}") if is_new else ("=", "=")
        hits = "" if self.name == WHOLE else str(self.hits)
        name = SHOWN.get(self.name, self.name)
        cells = (name, hits, str(self.dispatches), *time)
        if self.difference is None:
            return cells
        return (*cells, f"{self.difference:.3g}", "same" if self.same else "differ")


@dataclass(frozen=True)
class Subject:
    """What is ablated, and how long it is measured; the fields are arguments of `ablate`."""

    model: Model
    target: str
    level: int | None
    context: int
    kv: str
    rules: tuple[Rule, ...]
    threads: int
    tokens: int | None
    repeats: int

    def compiled(self, disable: Iterable[str] = ()) -> Compiled:
        """The model without those rules and passes."""
        return driver.compile(
            self.model,
            target=self.target,
            level=self.level,
            rules=self.rules,
            context=self.context,
            kv=self.kv,
            disable=disable,
        )


@pool.kept()
def ablate(
    path: str | os.PathLike[str] | Model,
    target: str = "cpu",
    level: int | None = None,
    context: int | None = None,
    kv: str = "f16",
    *,
    only: Iterable[str] | None = None,
    rules: Iterable[Rule] = (),
    threads: int = 0,
    tokens: int | None = None,
    repeats: int = 5,
    note: Callable[..., None] = lambda *_: None,
) -> list[Ablation]:
    """A row for the whole pipeline of a level, for each rule and pass left out, and for all.

    `only`: names of the rules and passes to leave out, one at a time, instead of every one that the
    level runs; "rules" and "passes" stand for all that merge nodes and all that do not. `rules`:
    the caller's own, which run behind the level's and are ablated as well.
    `repeats`: turns in which a row and the whole pipeline are measured, twice each, all rows once
    before any again; `tokens`: new
    tokens of one measurement, by default as many as take a tenth of a second, and at least 8.
    `note(name, done, total)` is told what is measured next. The other arguments are those of
    `fusec.load`. Raises FusecError for what is unknown or out of range.
    """
    for name, value, least in (("tokens", tokens, 2), ("repeats", repeats, 1)):
        if value is not None and value < least:
            raise FusecError(f"ablate: expected {name} from {least}, found {value}")
    model = path if isinstance(path, Model) else Model.open(Path(path))
    context = model.check_context(context, DEFAULT_CONTEXT)
    least = PROMPT + (FEWEST if tokens is None else tokens)
    if context < least:
        raise FusecError(f"ablate: expected a context of at least {least} tokens, found {context}")
    subject = Subject(model, target, level, context, kv, tuple(rules), threads, tokens, repeats)
    whole = subject.compiled()
    names = chosen(whole, only)
    cases: list[Case] = [(name, (name,)) for name in names]
    if len(names) > 1:
        cases.append((ALL, tuple(names)))
    rows = measured if whole.backend.is_here() else predicted
    return rows(subject, whole, cases, note)


def chosen(whole: Compiled, only: Iterable[str] | None) -> list[str]:
    """The rules and passes to leave out, in the order they run in. Raises FusecError."""
    options = whole.options
    steps = passes_of(options.level, options.rules)[:-1]  # the schedule is no option
    merges = [name_of(step) for step in steps if isinstance(step, Fuse)]
    others = [name_of(step) for step in steps if not isinstance(step, Fuse)]
    known = [name_of(step) for step in steps]
    if only is None:
        return known
    wanted: set[str] = set()
    for name in (only,) if isinstance(only, str) else only:
        group = {"rules": merges, "passes": others}.get(name, [name.removeprefix("fuse-")])
        if set(group) - set(known):
            raise unknown(
                f"ablate: -O{options.level} runs no rule or pass", name, {*known, *GROUPS}
            )
        wanted.update(group)
    return [name for name in known if name in wanted]


def predicted(
    subject: Subject, whole: Compiled, cases: Sequence[Case], note: Callable[..., None]
) -> list[Ablation]:
    """Rows by the cost model. Raises FusecError for a target that has none."""
    gpu = whole.backend.limits.gpu
    if gpu is None:
        raise FusecError(f"ablate: target {whole.backend.name} is not here, and has no cost model")
    usual = cost.token_us(whole.plan, gpu)
    rows = [Ablation(WHOLE, (), 0, _dispatches(whole), False, usual, 1.0, False)]
    for i, (name, disable) in enumerate(cases):
        note(name, i, len(cases))
        other = subject.compiled(disable)
        us = cost.token_us(other.plan, gpu)
        counts = _hits(whole, disable), _dispatches(other), other.plan != whole.plan
        rows.append(Ablation(name, disable, *counts, us, us / usual, False))
    return rows


def measured(
    subject: Subject, whole: Compiled, cases: Sequence[Case], note: Callable[..., None]
) -> list[Ablation]:
    """Rows by running each beside the whole pipeline, once in each of the rounds."""
    others = [subject.compiled(disable) for _, disable in cases]
    pairs: list[list[Pair]] = [[] for _ in cases]
    rows: list[Ablation] = []
    for (name, disable), other in zip(cases, others, strict=True):
        counts = _hits(whole, disable), _dispatches(other), other.plans != whole.plans
        rows.append(Ablation(name, disable, *counts, 0.0, 1.0, True, 0.0, False, 0.0, True))
    places = [i for i, row in enumerate(rows) if row.changed]
    with (
        _engine(whole, subject) as usual,
        Opened(lambda i: _engine(others[i], subject)) as engines,
    ):
        tokens = _tokens(usual, subject)
        wanted = _logits(usual)
        alone = [_seconds(usual, tokens) for _ in range(subject.repeats)]

        def turn(engine: Engine) -> list[Pair]:
            _seconds(engine, tokens)  # to warm up
            return list(turns(lambda e: _seconds(e, tokens), usual, engine, 1))

        for done, (round_, i) in enumerate(product(range(subject.repeats), places)):
            note(rows[i].name, done, subject.repeats * len(places))
            if round_ == 0:
                rows[i] = _with_logits(rows[i], engines.use(i, _logits), wanted)
            pairs[i] += engines.use(i, turn)
    alone += [seconds for each in pairs for seconds, _ in each]
    us = 1e6 * statistics.median(alone)
    first = Ablation(WHOLE, (), 0, _dispatches(whole), False, us, 1.0, True, 0.0, None, 0.0, True)
    return [
        first,
        *(
            _with_times(row, each) if each else replace(row, us=us, clear=None)
            for row, each in zip(rows, pairs, strict=True)
        ),
    ]


def _with_times(row: Ablation, pairs: Sequence[Pair]) -> Ablation:
    """`pairs`: seconds a token of the whole pipeline, and of this row."""
    ratios = [own / whole for whole, own in pairs]
    us = 1e6 * statistics.median(own for _, own in pairs)
    spread = max(ratios) - min(ratios)
    clear = len(ratios) >= AGREE and (min(ratios) > 1 or max(ratios) < 1)
    return replace(row, us=us, ratio=statistics.median(ratios), spread=spread, clear=clear)


def _with_logits(row: Ablation, found: Array, wanted: Array) -> Ablation:
    difference = float(np.abs(found - wanted).max())
    return replace(row, difference=difference, same=found.tobytes() == wanted.tobytes())


def _engine(compiled: Compiled, subject: Subject) -> Engine:
    engine = compiled.engine(threads=subject.threads)
    engine.stop = frozenset()  # as many tokens as were asked for, whatever they are
    return engine


def _tokens(engine: Engine, subject: Subject) -> int:
    """New tokens of one measurement."""
    if subject.tokens is not None:
        return subject.tokens
    _seconds(engine, FEWEST)  # to warm up
    enough = math.ceil(SECONDS / _seconds(engine, FEWEST))
    return min(max(enough, FEWEST), subject.context - PROMPT)


def _seconds(engine: Engine, tokens: int) -> float:
    """A new token's, the mean of so many."""
    prompt = prompt_ids(engine.vocabulary, PROMPT)
    return seconds_per_token(engine, prompt, tokens, Sampling(temperature=0))


def _logits(engine: Engine) -> Array:
    """float32[2 * PROMPT, vocabulary]: after each token, in steps of many and in steps of one."""
    ids = prompt_ids(engine.vocabulary, PROMPT)
    many = engine.logits(ids)
    engine.reset()
    return np.concatenate([many, np.stack([engine.step(token) for token in ids])])


def _dispatches(compiled: Compiled) -> int:
    return len(compiled.plan.launches)


def _hits(whole: Compiled, names: Iterable[str]) -> int:
    """How often those applied in the whole pipeline."""
    return sum(stage.hits for stage in whole.stages if name_of(stage) in names)
