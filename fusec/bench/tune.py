"""`fusec tune`: choose the shapes of kernels by measuring whole steps on this machine's GPU."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fusec import backends, driver
from fusec.bench.search import Choices, Found, Subject, gain, search, turns
from fusec.bench.tune_gpu import StepBench
from fusec.bench.variants import Variant, Variants
from fusec.codegen import pool
from fusec.codegen.cuda import tuning as tunings
from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.candidates import candidates, default_of, releases, variants
from fusec.codegen.cuda.rows import for_width
from fusec.codegen.cuda.tuning import Tuning
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir.choice import AnyChoice
from fusec.ir.choosing import without_choice
from fusec.ir.plan import Kernel, LaunchPlan
from fusec.runtime.cuda.engine import CudaEngine

Note = Callable[[str], None]

TURNS = 16  # of A B B A, for all choices together against none
CHECKED, CHECKED_AT_END = 24, 272  # positions: the last ones lie behind a span of attention


@dataclass(frozen=True)
class Tuned:
    """What tuning steps of `width` rows came to. `before` and `after`: us a step, in turns.

    `plan`: of such a step; `subjects`: its kernels and what was known of them; `found.choices`:
    what is kept; `shares`: microseconds of a step that each kernel's launches take with that.
    """

    width: int
    plan: LaunchPlan
    subjects: tuple[Subject, ...]
    found: Found
    before: float
    after: float
    shares: Mapping[str, float]

    @property
    def entries(self) -> dict[str, AnyChoice | None]:
        """Choices for the GPU's table, by its keys; None where the default was best.

        Kernels that nothing was tried for are not in it.
        """
        keys = {kernel.name: tunings.key(kernel, self.width) for kernel in self.plan.kernels}
        return {
            keys[s.name]: None if self.found.choices[s.name] == s.default else
            self.found.choices[s.name]
            for s in self.subjects
            if s.name in self.found.tried
        }  # fmt: skip


def prepare(path: Path, target: str, level: int | None, context: int | None, kv: str) -> Compiled:
    """The model with every kernel as it is by default. Raises FusecError for a CPU target."""
    if not backends.get(target).has_choices:
        raise FusecError(f"tuning is for GPUs: expected a GPU's architecture, found '{target}'")
    return driver.compile(path, target=target, level=level, context=context, kv=kv, tuning=Tuning())


def plan_of(compiled: Compiled, width: int) -> LaunchPlan:
    """The plan of a step of so many rows, without what a token loop does itself.

    Raises FusecError for a width that no step is captured for.
    """
    if width == 1:
        return without_choice(compiled.plan)
    assert compiled.plans is not None  # of a model
    several = compiled.plans.several
    most = several[-1].tokens if several else 1
    if not 1 < width <= most or (width & (width - 1) and width != most):
        raise FusecError(
            f"--width: expected 1 or powers of two up to {most}, the most rows of a step, found "
            f"{width}"
        )
    wide = next(plan for plan in several if plan.tokens >= width)
    return for_width(wide, width, find_arch(compiled.options.target).sms)


def build(compiled: Compiled, widths: Sequence[int], note: Note | None = None) -> tuple[int, int]:
    """Compile all that `run` may need into the cache; how many variants of how many kernels."""
    plans = {width: plan_of(compiled, width) for width in widths}
    found = _variants(compiled, plans.values())
    asked = [v for width, plan in plans.items() for v in _asked(plan, width, found)]
    with pool.kept():
        compiled.build(note)
        return found.ready(asked, note), len({name for name, _ in asked})


def _variants(compiled: Compiled, plans: Iterable[LaunchPlan]) -> Variants:
    return Variants((k for plan in plans for k in plan.kernels), compiled.options.target)


def _asked(plan: LaunchPlan, width: int, found: Variants) -> Iterator[Variant]:
    """Every variant of every kernel of a plan."""
    launches = Counter(launch.kernel for launch in plan.launches)
    for kernel in plan.kernels:
        if _has_shapes(kernel, launches[kernel.name]):
            yield from ((kernel.name, choice) for choice in variants(kernel, found.arch, width))
        else:
            usual = default_of(kernel, found.arch)
            for release in releases(kernel, found.arch):
                yield kernel.name, replace(usual, release=release)


def _has_shapes(kernel: Kernel, launches: int) -> bool:
    """Whether a kernel's shapes are tried: in steps of several rows, if it is that of a layer."""
    return launches > 1 or not kernel.rows


@pool.kept()
def run(
    compiled: Compiled,
    widths: Sequence[int],
    seconds: float,
    before: Mapping[int, Found] | None = None,
    note: Note = lambda _: None,
) -> tuple[str, list[Tuned]]:
    """The GPU's name, and what a search of about `seconds` at most came to, for each width.

    `before`: what earlier searches found, by width, with which these go on. Raises FusecError for a
    width that is none, and naming the kernels if a byte of any output changed.
    """
    plans = {width: plan_of(compiled, width) for width in widths}
    engine = compiled.engine()
    if not isinstance(engine, CudaEngine):
        raise FusecError("tuning needs the CUDA target")
    try:
        found = _variants(compiled, plans.values())
        tuned: list[Tuned] = []
        end = time.monotonic() + seconds
        for width, plan in plans.items():
            rows = f"{width} rows: " if len(plans) > 1 else ""
            one = _Search(engine, plan, width, found, partial(_note, note, rows))
            left = (end - time.monotonic()) / (len(plans) - len(tuned))
            tuned.append(one.run(left, (before or {}).get(width)))
        return engine.workspace.driver.name, tuned
    finally:
        engine.close()


def _note(note: Note, front: str, what: str) -> None:
    note(front + what)


class _Search:
    """The search for steps of one width."""

    def __init__(
        self, engine: CudaEngine, plan: LaunchPlan, width: int, found: Variants, note: Note
    ) -> None:
        self.plan, self.width, self.variants, self.note = plan, width, found, note
        self.bench = StepBench(engine, plan, width, found)
        launched = {launch.kernel for launch in self.bench.plan.launches}
        self.kernels = [kernel for kernel in plan.kernels if kernel.name in launched]
        self.default = {kernel.name: default_of(kernel, found.arch) for kernel in self.kernels}

    def run(self, seconds: float, before: Found | None) -> Tuned:
        """Search for so long, and check that no byte of any output changed."""
        bench, default = self.bench, self.default
        self.note("each kernel's share")
        self.variants.ready(default.items())
        bench.settle(default)
        shares = {name: bench.share(name, default) for name in default}
        subjects = sorted(self._subjects(shares), key=lambda s: -s.share)
        short, long = (bench.outputs(default, count) for count in (CHECKED, CHECKED_AT_END))

        def check(choices: Choices, count: int = CHECKED, wanted: bytes = short) -> None:
            if bench.outputs(choices, count) != wanted:
                changed = [f"{n} ({choices[n]})" for n in choices if choices[n] != default[n]]
                raise FusecError(
                    f"other outputs than with every default, which no choice may give: "
                    f"{', '.join(changed)}: nothing was saved"
                )

        if before is not None:
            self.variants.ready(before.choices.items())
            check(before.choices)
        usable = self.variants.usable
        found = search(
            subjects, bench.measure, check, seconds, usable=usable, before=before, note=self.note
        )
        self.note("all together")
        pairs = list(turns(bench.measure, default, found.choices, TURNS))
        start, end = (statistics.median(times) for times in zip(*pairs, strict=True))
        if not gain(pairs):
            found, end = Found(default, tried=found.tried, looks=found.looks), start
        check(found.choices, CHECKED_AT_END, long)
        changed = {n for n, choice in found.choices.items() if choice != default[n]}
        after = shares | {name: bench.share(name, found.choices) for name in changed}
        return Tuned(self.width, self.plan, tuple(subjects), found, start, end, after)

    def _subjects(self, shares: Mapping[str, float]) -> Iterator[Subject]:
        launches = Counter(launch.kernel for launch in self.plan.launches)
        arch = self.variants.arch
        for kernel in self.kernels:
            name, usual = kernel.name, self.default[kernel.name]
            has_shapes = _has_shapes(kernel, launches[name])
            shapes = candidates(kernel, arch, self.width) if has_shapes else (usual,)
            yield Subject(name, launches[name], shares[name], shapes, releases(kernel, arch))
