"""A compiled model bound to a driver without a GPU."""

from __future__ import annotations

from fusec.runtime.cuda.driver import Driver
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.loop import TokenLoop
from fusec.runtime.cuda.session import CudaSession
from fusec.runtime.cuda.workspace import Workspace
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda import fake

CONTEXT = 48
NEVER: frozenset[int] = frozenset()


class Machine:
    """Everything bound to a fake driver, at one place for the tests to look at."""

    def __init__(self, compiled, *, eager=False, l2="auto", weight=None, **options):
        plan, model = compiled.plan, compiled.model
        plans = plan, plan.only({"%logits"}), plan.only(set())
        self.api = fake.fake_for(plan, **options)
        self.workspace = Workspace(
            Driver(self.api), plans, fake.executables(plan), weight or model.raw,
            fake.UNPACKED, l2,
        )  # fmt: skip
        self.decode, self.scores, self.absorb = (
            CudaSession(p, self.workspace, eager=eager) for p in plans
        )
        self.loop = TokenLoop(self.decode, self.scores, self.absorb, CONTEXT)

    def run(self, ids, count, sampling=Sampling(), stop=NEVER):  # noqa: B008
        return list(self.loop.run(ids, count, sampling, frozenset(stop)))

    def engine(self):
        return CudaEngine(self.decode, self.absorb, self.loop, context=CONTEXT)
