"""A compiled model bound to a driver without a GPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusec import driver
from fusec.backends import cuda
from fusec.runtime.cuda.driver import Driver
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

    `asked`: the names of kernels that were wanted at once, one list for each time.
    """

    def __init__(self, compiled, *, eager=False, l2="auto", weight=None, **options):
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
            engine = compiled.backend.engine(plans, kernels, model, l2=l2, eager=eager)
        self.built = engine
        self.workspace, self.loop = engine.workspace, engine.loop
        self.decode, self.prefill, self.absorb = engine.decode, engine.prefill, engine.absorb

    def run(self, ids, count, sampling=Sampling(), stop=NEVER):  # noqa: B008
        return list(self.loop.run(Job(tuple(ids), count, sampling), frozenset(stop)))

    def engine(self):
        sessions = self.decode, self.prefill, self.absorb
        return CudaEngine(*sessions, self.loop, context=self.loop._context)
