"""What the experiments of `fusec profile` share: their results, and parts of a plan to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fusec.bench.tokens import prompt_ids
from fusec.ir.plan import Arg, Launch, LaunchPlan

Note = Callable[[str], None]

PROMPT = 16


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


SHARED = ("weight", "state", "pages")
"""Arguments of which a resident plan has the first launch's."""


def resident(plan: LaunchPlan) -> LaunchPlan:
    """The plan with a kernel's launches all on the first one's weights and states: all cached.

    It computes nothing sensible, in the same steps.
    """
    first: dict[str, tuple[Arg, ...]] = {}

    def rebind(launch: Launch) -> Launch:
        source = first.setdefault(launch.kernel, launch.args)
        pairs = zip(launch.args, source, strict=True)
        args = tuple(theirs if arg.kind in SHARED else arg for arg, theirs in pairs)
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
