"""`fusec tune`: choose the shapes of kernels by measuring whole tokens on this machine's GPU."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from fusec import backends, driver
from fusec.backends.cuda import executable
from fusec.bench.facts import machine
from fusec.bench.search import Choices, Found, Subject, gain, search, turns
from fusec.bench.tune_gpu import TokenBench
from fusec.codegen import pool
from fusec.codegen.cuda import tuning as tunings
from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates, default_of, releases, variants
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.tuning import Tuning
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir.choosing import without_choice
from fusec.ir.plan import Choice
from fusec.report import make_table
from fusec.runtime.cuda.driver import Executable
from fusec.runtime.cuda.engine import CudaEngine

Note = Callable[[str], None]
Variants = Mapping[tuple[str, Choice], Executable]
"""Kernel name and choice -> machine code."""

TURNS = 16  # of A B B A, for all choices together against none
CHECKED, CHECKED_AT_END = 24, 272  # positions: the last ones lie behind a span of attention


@dataclass(frozen=True)
class Tuned:
    """What tuning a model came to. `before` and `after`: microseconds a token, measured in turns.

    `subjects`: the kernels and what was known of them; `found.choices`: what is kept; `shares`:
    microseconds of a token that each kernel's launches take with that.
    """

    compiled: Compiled
    gpu: str
    subjects: tuple[Subject, ...]
    found: Found
    before: float
    after: float
    shares: Mapping[str, float]

    @property
    def entries(self) -> dict[str, Choice | None]:
        """Choices for the GPU's table, by its keys; None where the default was best.

        Kernels that nothing was tried for are not in it.
        """
        keys = {
            kernel.name: tunings.key(kernel)
            for kernel in without_choice(self.compiled.plan).kernels
        }
        return {
            keys[s.name]: None if self.found.choices[s.name] == s.default else
            self.found.choices[s.name]
            for s in self.subjects
            if s.name in self.found.tried
        }  # fmt: skip

    def save(self) -> Path:
        """Put the choices into the GPU's table."""
        old = tunings.load(self.gpu, self.compiled.options.target)
        return tunings.save(tunings.merge(old, self.entries))

    def as_data(self) -> dict[str, Any]:
        """What `--json` writes: a table that FUSEC_TUNING takes, and how it came about."""
        none = Tuning(self.gpu, self.compiled.options.target)
        model = self.compiled.model
        return {
            **tunings.merge(none, self.entries).as_dict(),
            "model": Path(model.file.path).stem if model else self.compiled.plan.name,
            "level": self.compiled.plan.level,
            "context": self.compiled.context,
            "token_us": {"before": self.before, "after": self.after},
            "kernels": [self._row(subject) for subject in self.subjects],
            "machine": machine(self.compiled.backend),
        }

    def _row(self, subject: Subject) -> dict[str, Any]:
        name = subject.name
        return {
            "kernel": name,
            "launches": subject.launches,
            "tried": self.found.tried.get(name, 0),
            "default": asdict(subject.default),
            "chosen": asdict(self.found.choices[name]),
            "us_before": subject.share,
            "us_after": self.shares[name],
        }


def prepare(path: Path, target: str, level: int | None, context: int | None, kv: str) -> Compiled:
    """The model with every kernel as it is by default. Raises FusecError for a CPU target."""
    if not backends.get(target).has_choices:
        raise FusecError(f"tuning is for GPUs: expected a GPU's architecture, found '{target}'")
    return driver.compile(path, target=target, level=level, context=context, kv=kv, tuning=Tuning())


def count_of(compiled: Compiled) -> int:
    """How many kernels `build` compiles."""
    arch, kernels = find_arch(compiled.options.target), without_choice(compiled.plan).kernels
    return len(compiled.kernels) + sum(len(variants(k, arch)) for k in kernels)


@pool.kept()
def build(compiled: Compiled, note: Note | None = None) -> Variants:
    """Every variant of every kernel of a greedy token, compiled or from the cache.

    Those that spill are left out. The token loop's own kernels are made ready as well, since `run`
    needs them.
    """
    compiled.build(note)
    arch, kernels = find_arch(compiled.options.target), without_choice(compiled.plan).kernels
    asked = {
        (k.name, c): emit(replace(k, choice=c), arch) for k in kernels for c in variants(k, arch)
    }
    cubins = compile_many(list(asked.values()), compiled.options.target, note)
    usual = {kernel.name: default_of(kernel, arch) for kernel in kernels}
    return {
        (name, choice): executable(kernel, cubin)
        for ((name, choice), kernel), cubin in zip(asked.items(), cubins, strict=True)
        if cubin.spill_stores + cubin.spill_loads == 0
        or replace(choice, release=usual[name].release) == usual[name]
    }


def run(compiled: Compiled, built: Variants, seconds: float, note: Note = lambda _: None) -> Tuned:
    """Search for about `seconds` at most, and check that no byte of any output changed.

    Raises FusecError naming the kernel if one did.
    """
    engine = compiled.engine()
    if not isinstance(engine, CudaEngine):
        raise FusecError("tuning needs the CUDA target")
    try:
        bench = TokenBench(engine, built)
        arch = find_arch(compiled.options.target)
        default = {k.name: default_of(k, arch) for k in without_choice(compiled.plan).kernels}
        note("each kernel's share")
        shares = {name: bench.share(name, default) for name in default}
        subjects = sorted(_subjects(compiled, built, shares), key=lambda s: -s.share)
        short, long = (bench.logits(default, count) for count in (CHECKED, CHECKED_AT_END))

        def check(choices: Choices, count: int = CHECKED, wanted: bytes = short) -> None:
            if bench.logits(choices, count) != wanted:
                changed = [f"{n} ({choices[n]})" for n in choices if choices[n] != default[n]]
                raise FusecError(
                    f"other logits than with every default, which no choice may give: "
                    f"{', '.join(changed)}: nothing was saved"
                )

        found = search(subjects, bench.measure, check, seconds, note=note)
        note("all together")
        pairs = list(turns(bench.measure, default, found.choices, TURNS))
        before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
        if not gain(pairs):
            found, after = Found(default, tried=found.tried), before
        check(found.choices, CHECKED_AT_END, long)
        changed = {n for n, choice in found.choices.items() if choice != default[n]}
        shares |= {name: bench.share(name, found.choices) for name in changed}
        name = engine.workspace.driver.name
        return Tuned(compiled, name, tuple(subjects), found, before, after, shares)
    finally:
        engine.close()


def _subjects(
    compiled: Compiled, built: Variants, shares: Mapping[str, float]
) -> Iterator[Subject]:
    arch, plan = find_arch(compiled.options.target), without_choice(compiled.plan)
    launches = Counter(launch.kernel for launch in plan.launches)
    for kernel in plan.kernels:
        usable = releases(kernel, arch)
        geometries = tuple(
            choice
            for choice in candidates(kernel, arch)
            if all((kernel.name, replace(choice, release=r)) in built for r in usable)
        )
        name = kernel.name
        yield Subject(name, launches[name], shares[name], geometries, usable)


def table(data: dict[str, Any]) -> Table:
    """A row a kernel: its default, what was chosen, and its time of a token before and after."""
    found = make_table("kernels")
    found.add_column("kernel", overflow="fold")
    for title in ("launches", "tried"):
        found.add_column(title, justify="right")
    found.add_column("default")
    found.add_column("chosen")
    for title in ("us before", "after"):
        found.add_column(title, justify="right")
    for row in data["kernels"]:
        default, chosen = Choice(**row["default"]), Choice(**row["chosen"])
        found.add_row(
            row["kernel"], str(row["launches"]), str(row["tried"]), str(default),
            "" if chosen == default else str(chosen),
            f"{row['us_before']:.2f}", f"{row['us_after']:.2f}",
        )  # fmt: skip
    return found


def line(data: dict[str, Any]) -> str:
    """The whole token in one sentence."""
    before, after = data["token_us"]["before"], data["token_us"]["after"]
    return (
        f"{data['model']} at -O{data['level']} on {data['gpu']}: {before:.1f} us a token with "
        f"every default, {after:.1f} with what was chosen ({before / after:.3f}x)"
    )
