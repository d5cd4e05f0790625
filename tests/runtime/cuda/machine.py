"""A compiled model bound to a driver without a GPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusec import driver
from fusec.backends import cuda
from fusec.runtime.cuda.driver import Driver, Executable
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.job import Job
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda import fake

CONTEXT = 96
NEVER: frozenset[int] = frozenset()


@cache
def compiled_for_a_gpu(path: Path) -> driver.Compiled:
    """At -O2, where the reference operations add up in one order however many rows a step has."""
    return driver.compile(path, target="sm_90a", level=2, context=CONTEXT)


class Machine:
    """Everything of an engine bound to a fake driver, at one place for the tests to look at.

    `resident`: the resident kernel that it has. `asked`: the names of kernels that were wanted at
    once, one list for each time.
    """

    def __init__(self, compiled, *, eager=False, l2="auto", weight=None, resident=None, **options):
        plans = compiled.plans
        every = (plans.decode, *compiled.backend.variants(plans))
        self.api = fake.fake_for(*every, **options)
        self.asked: list[list[str]] = []
        kernels = fake.by_name(fake.executables(*every), self.asked)
        file = compiled.model.file
        model = SimpleNamespace(raw=weight or compiled.model.raw, stop_ids=NEVER, file=file)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "Driver", lambda: Driver(self.api))
            patch.setattr(cuda, "PACKING", fake.UNPACKED)
            if resident is not None:
                self.kernel = self._with(resident, patch)
            engine = compiled.backend.engine(
                plans, kernels, model, l2=l2, eager=eager, resident=resident is not None
            )
        self.built = engine
        self.workspace, self.loop = engine.workspace, engine.loop
        self.decode, self.prefill, self.absorb = engine.decode, engine.prefill, engine.absorb

    def _with(self, resident, patch):
        """Have the backend take this resident kernel, whose cubin is its name."""
        name, grid = resident.kernel.name, resident.kernel.grid
        kernel = self.api.kernels[name] = fake.ResidentKernel(resident, self.api.kernels)
        own = Executable(name, "sm_90a", name.encode(), grid, resident.kernel.threads)

        def beside(_backend, kernels, _made, _progress):
            return lambda names: kernels(names) | ({name: own} if name in names else {})

        patch.setattr(cuda.Cuda, "resident", lambda _backend, _plan: resident)
        patch.setattr(cuda.Cuda, "beside", beside)
        return kernel

    def run(self, ids, count, sampling=Sampling(), stop=NEVER):  # noqa: B008
        return list(self.loop.run(Job(tuple(ids), count, sampling), frozenset(stop)))

    def engine(self):
        sessions = self.decode, self.prefill, self.absorb
        return CudaEngine(*sessions, self.loop, context=self.loop._context)
