"""`fusec profile`: the four walls of a token's time, each by its own experiment.

    between tokens  what the host adds: from a token's last kernel to the next one's first
    launches        the same launches of kernels that do nothing
    memory          the token as it is, less one whose layers all use the first layer's memory
    compute         every kernel launched behind itself on the same weights, less an empty one

No wall is computed as the rest of the others, so their sum can be compared with the token's time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from statistics import mean
from typing import Any

from fusec.bench.experiment import PROMPT, Measured, Note
from fusec.bench.facts import facts_of
from fusec.bench.instruments import instruments_of
from fusec.bench.steady import ADVICE, NOISE
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir import gpus
from fusec.ir.plan import LaunchPlan
from fusec.ir.text import parse
from fusec.passes import cost

ATTEMPTS = 4
LEAST = 0.5  # us by which times may come in the wrong order, however short they are


def run(
    compiled: Compiled, tokens: int, threads: int = 0, note: Note = lambda _: None
) -> dict[str, Any]:
    """Profile a compiled model around the middle of `tokens` new ones. Returns what JSON holds."""
    if tokens < 2:
        raise FusecError(f"-n: expected at least 2 tokens, found {tokens}")
    measure = instruments_of(compiled.backend).experiments
    attempts = measure(compiled, tokens, threads, note)
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
    where, walls = facts_of(compiled, threads), found.walls
    return {
        **where,
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
