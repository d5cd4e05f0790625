"""Launches that start before the one in front of them has ended: programmatic dependent launch.

A kernel that overlaps has two parts. The first needs nothing that a launch of this plan makes anew:
it loads weights, table entries, the position, and cache rows of earlier tokens. Then it waits until
the launch in front of it is complete, and only behind that wait it reads activations and writes.

It lets the next launch begin (the `release` of its `Choice`) either behind its own wait (wait,
read, barrier), so that two launches run at once, or before it (begin, load). Then launches queue
up, as many as there is room for, each waiting for the one in front. The choice changes only time. A
launch that has waited finds all others in front of it complete, because the one in front had waited
too. And no launch in front, however many still run, writes what a launch reads before its wait. See
"Programmatic Dependent Launch" in the CUDA programming guide, `griddepcontrol` in the PTX ISA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fusec.ir.plan import Kernel, Launch, LaunchPlan

EARLY_READS = ("weight", "table", "input")
"""Kinds of memory that a kernel reads before it waits. It also reads a state's older rows, but none
that this step appends; where a step has several rows, it reads none."""


def overlap(plan: LaunchPlan) -> LaunchPlan:
    """The plan with every launch marked `early` that may be, and kernels that wait inside."""
    kernels = {k.name: replace(k, overlaps=True) for k in plan.kernels}
    launches = list(plan.launches)
    for i, launch in enumerate(launches):
        launches[i] = replace(launch, early=why_not(launches, kernels, i) is None)
    return replace(plan, kernels=tuple(kernels.values()), launches=tuple(launches))


def why_not(launches: Sequence[Launch], kernels: Mapping[str, Kernel], i: int) -> str | None:
    """The reason launch `i` must not start before launch `i - 1` has ended, or None if it may.

    `early` of the launches in front of it has been decided.
    """
    if i == 0:
        return "nothing in front of it in this plan"
    launch, front = launches[i], launches[i - 1]
    if not kernels[launch.kernel].overlaps:
        return f"its kernel {launch.kernel} does not wait for what it reads"
    read = {arg.name for arg in launch.args if arg.kind in EARLY_READS}
    for other in _started_beside(launches, i):
        if hit := sorted(read & set(other.writes)):
            return f"it reads {hit[0]} before it waits, and {other.node} in front of it writes that"
    running = _running_beside(launches, kernels, i - 1)
    if clash := sorted(running & set(launch.waits)):
        name = launches[clash[0]].node
        return f"{name} may still run: {front.node} in front of it does not wait for {name}"
    return None


def _started_beside(launches: Sequence[Launch], i: int) -> Iterator[Launch]:
    """Launches in front of `i` that may still run when it starts, wherever they release it."""
    for j in range(i - 1, -1, -1):
        yield launches[j]
        if not launches[j].early:
            return


def _running_beside(launches: Sequence[Launch], kernels: Mapping[str, Kernel], i: int) -> set[int]:
    """Launches in front of `i` that may still run when `i` has ended."""
    running: set[int] = set()
    while i > 0 and launches[i].early and not kernels[launches[i].kernel].overlaps:
        i -= 1
        running.add(i)
    return running
