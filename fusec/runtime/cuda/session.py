"""A session on the GPU: a plan captured as one CUDA graph, which each step replays."""

from __future__ import annotations

from fusec.ir.plan import Arg, LaunchPlan
from fusec.runtime.cuda.driver import Handle
from fusec.runtime.cuda.workspace import Workspace
from fusec.runtime.session import Array, check_inputs, limits
from fusec.runtime.turns import Closing


class CudaSession(Closing):
    """One plan bound to a workspace, which it shares with other plans of the model.

    `eager` launches every kernel by itself instead of replaying a graph: the slow way, to compare.
    """

    def __init__(self, plan: LaunchPlan, workspace: Workspace, *, eager: bool = False) -> None:
        self.plan, self.workspace, self.eager = plan, workspace, eager
        self._launches = [
            (launch.kernel, tuple(workspace.address(arg) for arg in launch.args), launch.early)
            for launch in plan.launches
        ]
        self._ahead = [workspace.stretches(launch.prefetch) for launch in plan.launches]
        self._limits = limits(plan)
        written = {name for launch in plan.launches for name in launch.writes}
        self._outputs = {
            name: tensor
            for name, tensor in plan.outputs.items()
            if plan.output_args[name].name in written
        }
        self._graph: Handle = None

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run the plan once; what it returns are copies. See `Session.step`."""
        with self.workspace.turns.take():
            self.workspace.enter()
            check_inputs(self.plan, inputs, self._limits)
            for name, array in inputs.items():
                self.workspace.write(Arg("input", f"%{name}"), array)
            self.run()
            return {
                name[1:]: self.workspace.read(self.plan.output_args[name], tensor)
                for name, tensor in self._outputs.items()
            }

    def run(self) -> None:
        """Enqueue one step on the inputs that lie on the device."""
        if self.eager:
            self.enqueue()
            return
        if self._graph is None:
            self._graph = self.workspace.capture(self.enqueue)
        self.workspace.driver.replay(self._graph, self.workspace.stream)

    def enqueue(self) -> None:
        """Put the plan's launches on the stream, to run or to be captured."""
        for (kernel, pointers, early), ahead in zip(self._launches, self._ahead, strict=True):
            self.workspace.launch(kernel, pointers, early)
            self.workspace.prefetch(ahead)

    def reset(self) -> None:
        """Empty the states. Positions decide what is read, so nothing has to be cleared."""

    def close(self) -> None:
        """Give back the workspace, for every session that shares it."""
        self.workspace.close()
