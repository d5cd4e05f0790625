"""A session on the GPU: a plan captured as a CUDA graph, which each step replays.

A plan for several rows is captured for widths that are powers of two, when they are first needed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from fusec.ir.plan import ROWS, Arg, LaunchPlan
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
        self._graphs: dict[int, Handle] = {}  # by how many rows they are launched for

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run the plan once; what it returns are copies. See `Session.step`."""
        with self.workspace.turns.take():
            self.workspace.enter()
            rows = self.begin(**inputs)
            return {
                name[1:]: self.workspace.read(
                    self.plan.output_args[name],
                    replace(tensor, shape=(rows, *tensor.shape[1:])),
                )
                for name, tensor in self._outputs.items()
            }

    def begin(self, **inputs: Array) -> int:
        """Enqueue one step on these inputs; how many rows they are. See `Session.step`."""
        rows = check_inputs(self.plan, inputs, self._limits)
        for name, array in inputs.items():
            self.workspace.write(Arg("input", f"%{name}"), array)
        self.run(rows)
        return rows

    def run(self, rows: int = 1) -> None:
        """Enqueue one step on the inputs that lie on the device, of which there are so many rows.

        A graph is launched for a power of two, at most twice as many: blocks of rows that are not
        there end at once.
        """
        if self.plan.tokens > 1:
            self.workspace.write(ROWS, np.array([rows], np.uint32))
        if self.eager:
            self.enqueue(rows)
            return
        width = min(1 << (rows - 1).bit_length(), self.plan.tokens)
        if width not in self._graphs:
            self._graphs[width] = self.workspace.capture(partial(self.enqueue, width))
        self.workspace.driver.replay(self._graphs[width], self.workspace.stream)

    def enqueue(self, rows: int = 1) -> None:
        """Put the plan's launches on the stream, to run or to be captured."""
        for (kernel, pointers, early), ahead in zip(self._launches, self._ahead, strict=True):
            self.workspace.launch(kernel, pointers, early, rows)
            self.workspace.prefetch(ahead)

    def reset(self) -> None:
        """Empty the states. Positions decide what is read, so nothing has to be cleared."""

    def close(self) -> None:
        """Give back the workspace, for every session that shares it."""
        self.workspace.close()
