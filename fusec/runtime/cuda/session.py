"""A session on the GPU: a plan captured as a CUDA graph, which each step replays.

A plan for several rows is captured for widths that are powers of two, when they are first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from fusec.ir.plan import ROWS, Arg, LaunchPlan
from fusec.runtime.cuda.driver import Handle
from fusec.runtime.cuda.workspace import Workspace
from fusec.runtime.session import Array, check_inputs, limits
from fusec.runtime.turns import Closing
from fusec.writer import brief

_Bound = tuple[str, tuple[int, ...], bool, list[tuple[int, int]]]
"""Kernel, pointers, whether it starts early, and what is fetched into L2 meanwhile."""


class CudaSession(Closing):
    """One plan bound to a workspace, which it shares with other plans of the model.

    `variants`: plans for fewer rows, the fewest first, and itself; without them it is the same for
    any number. `eager` launches every kernel by itself instead of replaying a graph: the slow way,
    to compare.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        workspace: Workspace,
        *,
        variants: Sequence[LaunchPlan] = (),
        eager: bool = False,
    ) -> None:
        self.plan, self.workspace, self.eager = plan, workspace, eager
        self._plans = tuple(variants) or (plan,)
        self._limits = limits(plan)
        written = {name for launch in plan.launches for name in launch.writes}
        self._outputs = {
            name: tensor
            for name, tensor in plan.outputs.items()
            if plan.output_args[name].name in written
        }
        self._arenas: dict[int, int] = {}  # by the plan's place among the variants
        self._bound: dict[int, list[_Bound]] = {}  # the same
        self._graphs: dict[int, Handle] = {}  # by how many rows they are launched for

    def __repr__(self) -> str:
        return brief(self, f"{self.plan.name}: {self.plan.summary}")

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run the plan once; what it returns are copies. See `Session.step`."""
        with self.workspace.turns.take():
            self.workspace.enter()
            rows = self.begin(**inputs)
            index = self._variant(rows)
            places, arena = self._plans[index].output_args, self._arenas[index]
            return {
                name[1:]: self.workspace.read(
                    places[name], replace(tensor, shape=(rows, *tensor.shape[1:])), arena
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
        width = min(1 << (rows - 1).bit_length(), self.plan.tokens)
        self._prepare(width)
        if self.eager:
            self.enqueue(rows)
            return
        if width not in self._graphs:
            self._graphs[width] = self.workspace.capture(partial(self.enqueue, width))
        self.workspace.driver.replay(self._graphs[width], self.workspace.stream)

    def enqueue(self, rows: int = 1) -> None:
        """Put the plan's launches on the stream, to run or to be captured, for so many rows."""
        for kernel, pointers, early, ahead in self._prepare(rows):
            self.workspace.launch(kernel, pointers, early, rows)
            self.workspace.prefetch(ahead)

    def _prepare(self, rows: int) -> list[_Bound]:
        """Launches for so many rows, bound to memory, and their kernels on the GPU."""
        index = self._variant(rows)
        if index not in self._bound:
            workspace, plan = self.workspace, self._plans[index]
            arena = self._arenas[index] = workspace.arena(plan)
            workspace.need(dict.fromkeys(launch.kernel for launch in plan.launches))
            self._bound[index] = [
                (
                    launch.kernel,
                    tuple(workspace.address(arg, arena) for arg in launch.args),
                    launch.early,
                    workspace.stretches(launch.prefetch),
                )
                for launch in plan.launches
            ]
        return self._bound[index]

    def _variant(self, rows: int) -> int:
        """Which of the variants is for so many rows."""
        last = len(self._plans) - 1
        return next((k for k, p in enumerate(self._plans) if rows <= p.tokens), last)

    def reset(self) -> None:
        """Empty the states. Positions decide what is read, so nothing has to be cleared."""

    def close(self) -> None:
        """Give back the workspace, for every session that shares it."""
        self.workspace.close()
