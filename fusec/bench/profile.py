"""`fusec profile`: the four walls of a token's time, each by its own experiment.

    between tokens  what the host adds: from a token's last kernel to the next one's first
    launches        the same launches of kernels that do nothing
    memory          the token as it is, less one whose layers all use the first layer's memory
    compute         every kernel launched behind itself on the same weights, less an empty one

No wall is computed as the rest of the others, so their sum can be compared with the token's time.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from fusec import driver
from fusec.bench import machine, prompt_ids
from fusec.bench.steady import ADVICE, NOISE
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir.plan import Arg, Launch, LaunchPlan
from fusec.ir.text import parse
from fusec.passes import cost, gpus

Note = Callable[[str], None]

PROMPT = 16
ATTEMPTS = 4
LEAST = 0.5  # us by which times may come in the wrong order, however short they are
VERSION = 1


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of one kernel: `alone`, back to back with itself; `empty`, doing nothing.

    `empty` is a launch of the same grid.
    """

    launches: int
    alone: float
    empty: float


@dataclass(frozen=True)
class Measured:
    """One target's experiments. All times are microseconds a token unless said otherwise.

    `token`: as the caller sees it, sampled on the device (GPU) or greedy (CPU). `launch`: of each
    launch of the plan, in its order, inside a token. `naive`: the token and its walls where kernels
    are launched one by one and the host samples; empty where that is no different.
    """

    token: float
    device: float
    between: float
    empties: float
    streaming: float
    resident: float
    launch: list[float]
    kernels: dict[str, KernelTime]
    naive: dict[str, float] = field(default_factory=dict)

    @property
    def walls(self) -> dict[str, float]:
        """Wall -> microseconds a token."""
        compute = sum(k.launches * max(0.0, k.alone - k.empty) for k in self.kernels.values())
        return {
            "between tokens": self.between,
            "launches": self.empties,
            "memory": max(0.0, self.streaming - self.resident),
            "compute": compute,
        }

    @property
    def naive_walls(self) -> dict[str, float]:
        """The same where the host launches every kernel and samples; empty if not measured."""
        if not self.naive:
            return {}
        eager, host = self.naive["eager"], self.naive["eager, host sampling"]
        return self.walls | {
            "between tokens": self.between + max(0.0, host - eager),
            "launches": self.empties + max(0.0, eager - self.token),
        }


def run(
    compiled: Compiled, tokens: int, threads: int = 0, note: Note = lambda _: None
) -> dict[str, Any]:
    """Profile a compiled model around the middle of `tokens` new ones. Returns what JSON holds."""
    if tokens < 2:
        raise FusecError(f"-n: expected at least 2 tokens, found {tokens}")
    if compiled.is_cuda:
        from fusec.bench.profile_gpu import measure as measure_gpu

        attempts = measure_gpu(compiled, tokens, note)
    else:
        from fusec.bench.profile_cpu import measure as measure_cpu

        attempts = measure_cpu(compiled, tokens, threads or driver.default_threads(), note)
    return as_data(compiled, first_sound(compiled.plan, attempts), tokens, threads)


def first_sound(plan: LaunchPlan, attempts: Generator[Measured, None, None]) -> Measured:
    """The first of several attempts that does not contradict itself.

    Raises FusecError with a contradiction of the last one, if all do.
    """
    with closing(attempts):
        for found in islice(attempts, ATTEMPTS):
            wrong = next(contradictions(plan, found), None)
            if wrong is None:
                return found
    raise FusecError(f"profile: {wrong}, measured {ATTEMPTS} times: {ADVICE}")


def contradictions(plan: LaunchPlan, found: Measured) -> Iterator[str]:
    """What took longer than something with more to do, a sentence each."""

    def unless(longer: float, first: str, shorter: float, second: str) -> Iterator[str]:
        if shorter - longer > max(NOISE * shorter, LEAST):
            yield f"{first} took {longer:,.2f} us, {second} {shorter:,.2f} us"

    for name, kernel in found.kernels.items():
        yield from unless(kernel.alone, f"{name} behind itself", kernel.empty, "an empty kernel")
        if not plan.overlaps:  # beside another launch a kernel takes less than alone
            own = (
                us for x, us in zip(plan.launches, found.launch, strict=True) if x.kernel == name
            )
            yield from unless(mean(own), f"{name} in a token", kernel.alone, "behind itself")
    yield from unless(
        found.streaming, "a token", found.resident, "one whose layers share their memory"
    )
    if found.naive:
        eager, host = found.naive["eager"], found.naive["eager, host sampling"]
        yield from unless(eager, "a token launched one by one", found.token, "a captured one")
        yield from unless(host, "a token sampled on the host", eager, "one sampled on the device")


def as_data(compiled: Compiled, found: Measured, tokens: int, threads: int) -> dict[str, Any]:
    """The measurement with everything that it depends on."""
    plan = compiled.plan
    where = machine(compiled.is_cuda)
    walls = found.walls
    return {
        "version": VERSION,
        **where,
        "date": datetime.date.today().isoformat(),
        "model": Path(compiled.model.file.path).stem if compiled.model else plan.name,
        "target": plan.target,
        "level": plan.level,
        "threads": None if compiled.is_cuda else threads or driver.default_threads(),
        "position": PROMPT + tokens // 2,
        **{key: value for key, value in asdict(found).items() if key != "launch"},
        "walls": walls,
        "sum": sum(walls.values()),
        "naive_walls": found.naive_walls,
        "launches": list(_launches(compiled, found, where["gpu"])),
    }


def _launches(compiled: Compiled, found: Measured, gpu: str | None) -> Iterator[dict[str, Any]]:
    """Every launch: its time, the time the cost model gives it, and the bytes it moves."""
    plan = compiled.plan
    machine = gpus.find(gpu) if gpu and gpus.knows(gpu) else None
    predicted = cost.token_costs(plan, machine) if machine else [None] * len(plan.launches)
    bytes_of = {k.name: cost.moved(parse(k.region)) for k in plan.kernels}
    for launch, us, expected in zip(plan.launches, found.launch, predicted, strict=True):
        yield {
            "node": launch.node,
            "kernel": launch.kernel,
            "layer": launch.layer,
            "us": us,
            "predicted_us": expected.total if expected else None,
            "bytes": bytes_of[launch.kernel],
        }


def resident(plan: LaunchPlan) -> LaunchPlan:
    """The plan with a kernel's launches all on the first one's weights and states: all cached.

    It computes nothing sensible, in the same steps.
    """
    first: dict[str, tuple[Arg, ...]] = {}

    def rebind(launch: Launch) -> Launch:
        source = first.setdefault(launch.kernel, launch.args)
        pairs = zip(launch.args, source, strict=True)
        args = tuple(theirs if arg.kind in ("weight", "state") else arg for arg, theirs in pairs)
        return replace(launch, args=args, prefetch=())

    return replace(plan, launches=tuple(map(rebind, plan.launches)))


def firsts(plan: LaunchPlan) -> dict[str, tuple[int, int]]:
    """Kernel -> index of its first launch, number of launches."""
    found: dict[str, tuple[int, int]] = {}
    for i, launch in enumerate(plan.launches):
        index, count = found.get(launch.kernel, (i, 0))
        found[launch.kernel] = index, count + 1
    return found


def prompt_of(vocabulary: int) -> list[int]:
    """The prompt in front of the tokens that are measured."""
    return prompt_ids(vocabulary, PROMPT)
