"""The CPU: kernels compiled by Numba to object files, run by a team of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fusec.backends.base import Backend, Facts, Plans, Progress
from fusec.codegen.cpu.emit import emit
from fusec.codegen.formats import FORMATS
from fusec.codegen.kernel import KernelSource
from fusec.cores import cores
from fusec.errors import FusecError
from fusec.ir.plan import GENERATING, Kernel, LaunchPlan
from fusec.ir.remember import remembered
from fusec.ir.target import Target
from fusec.models.model import Model
from fusec.runtime.cpu.cache import CpuCache
from fusec.runtime.cpu.session import CpuSession
from fusec.runtime.cpu.team import Team, check_threads
from fusec.runtime.engine import Engine
from fusec.runtime.session import positions

Array = np.ndarray[Any, Any]

EMITTED = 256  # kernels whose source is kept: a model's come up again at other levels
L2_BYTES = 1 << 20  # of a core, where a thread's prologue should stay: a megabyte is common
MOST_BY_DEFAULT = 64  # threads: a launch waits for all, and more have never been measured

_emit = remembered(EMITTED)(emit)


class Cpu(Backend[KernelSource, Mapping[str, KernelSource]]):
    """What `session` and `engine` take are sources: their functions live as long as the process."""

    family = "cpu"
    level = 2  # what -O3 saves, launches and waits between them, costs a CPU next to nothing
    prefill_tokens = 16
    scalars = ("tokens", "scratch", "scratch_bytes")
    launches = ("cpu",)

    def __init__(self) -> None:
        super().__init__(Target("cpu", frozenset(FORMATS), L2_BYTES))

    def emit(self, kernel: Kernel) -> KernelSource:
        """See `Backend`."""
        return _emit(kernel)

    def source(self, facts: Facts) -> KernelSource:
        """See `Backend`."""
        return KernelSource(**facts)

    def build(
        self, kernels: Mapping[str, KernelSource], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Objects go to the cache; folders keep sources, since objects are for one kind of CPU."""
        # llvmlite is loaded by whoever compiles, not by whoever asks for the help
        from fusec.codegen.cpu.build import build

        build(tuple(kernels.values()), progress)
        return {}

    def ready(
        self, kernels: Mapping[str, KernelSource], progress: Progress | None = None
    ) -> Mapping[str, KernelSource]:
        """The sources, which are built when they are bound."""
        return kernels

    def describe(
        self, kernels: Mapping[str, KernelSource], built: Mapping[str, Any]
    ) -> dict[str, Facts]:
        """See `Backend`."""
        return {name: {"scratch_bytes": k.scratch_bytes} for name, k in kernels.items()}

    def restore(
        self, described: Mapping[str, Facts], read: Callable[[str], bytes]
    ) -> dict[str, KernelSource]:
        """See `Backend`."""
        return {
            name: KernelSource(name, read(f"{name}.py").decode(), facts["scratch_bytes"])
            for name, facts in described.items()
        }

    def session(
        self,
        plan: LaunchPlan,
        kernels: Mapping[str, KernelSource],
        weights: Mapping[str, Array],
        progress: Progress | None = None,
        threads: int = 0,
    ) -> CpuSession:
        """Weights are read where they lie."""
        (session,) = bind(kernels, (plan,), weights.__getitem__, progress, threads)
        return session

    def engine(
        self,
        plans: Plans,
        kernels: Mapping[str, KernelSource],
        model: Model,
        progress: Progress | None = None,
        threads: int = 0,
        *,
        l2: str = "auto",
        eager: bool = False,
        resident: bool = False,
    ) -> Engine:
        """Three sessions: decode, prefill, and prefill without what only feeds the logits.

        One more for the values that somebody asked for. Hidden states come of all of them.
        """
        if resident:
            raise FusecError(
                "a resident kernel (--resident) is for GPUs with clusters: expected a target such "
                "as sm_90a, found cpu"
            )
        hidden = plans.decode.hidden
        wanted = [plan.only(GENERATING | hidden) for plan in (plans.decode, plans.prefill)]
        wanted += [plans.prefill.only(hidden)]
        wanted += [plans.prefill] if plans.prefill.asked else []
        decode, prefill, absorb, *traced = bind(
            kernels, tuple(wanted), model.raw, progress, threads
        )
        return Engine(
            decode,
            prefill,
            absorb,
            context=positions(plans.decode),
            stop=model.stop_ids,
            traced=traced[0] if traced else None,
            model=model,
        )

    def threads(self, given: int = 0) -> int:
        """As many as are given, or `default_threads`."""
        return check_threads(given) if given else default_threads()


def bind(
    kernels: Mapping[str, KernelSource],
    plans: tuple[LaunchPlan, ...],
    weight: Callable[[str], Array],
    progress: Progress | None,
    threads: int,
) -> tuple[CpuSession, ...]:
    """Sessions for several plans over the same kernels, cache and threads.

    Closing one ends the threads, and so all of them.
    """
    from fusec.codegen.cpu.build import build, build_team  # loads llvmlite: see `Cpu.build`

    threads = check_threads(threads) if threads else default_threads()
    built = build(tuple(kernels.values()), progress)
    addresses = {name: functions["kernel"] for name, functions in built.items()}
    scratch = {name: kernel.scratch_bytes for name, kernel in kernels.items()}
    team, cache = Team(threads, build_team()), CpuCache(plans[0])
    try:
        return tuple(CpuSession(plan, addresses, scratch, weight, team, cache) for plan in plans)
    except BaseException:
        team.close()
        raise


def default_threads() -> int:
    """FUSEC_THREADS, or the cores this process may use; of very many, MOST_BY_DEFAULT."""
    given = os.environ.get("FUSEC_THREADS", "")
    if given and (not given.isdigit() or given == "0"):
        raise FusecError(f"FUSEC_THREADS: expected a number of threads from 1, found '{given}'")
    if given:
        return check_threads(int(given), "FUSEC_THREADS")
    return min(cores(), MOST_BY_DEFAULT)
