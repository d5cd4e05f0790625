"""A session on the GPU: a plan captured as a CUDA graph, which each step replays.

A plan for several rows is captured for widths that are powers of two, when they are first needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.plan import ROWS, Arg, LaunchPlan
from fusec.runtime.cuda.cache import CudaCache
from fusec.runtime.cuda.device_array import DeviceArray
from fusec.runtime.cuda.driver import Handle
from fusec.runtime.cuda.workspace import Workspace
from fusec.runtime.session import (
    Array,
    cached_positions,
    check_inputs,
    check_order,
    in_order,
    limits,
)
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
        self._limits, self._positions = limits(plan), cached_positions(plan)
        self._in_order = set().union(*map(in_order, self._plans))
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
            return self.results(self.begin(**inputs))

    def results(self, rows: int) -> dict[str, Array]:
        """Copies of what a step of so many rows gives, once all that was enqueued is done."""
        return {name[1:]: self.workspace.memory.read(*p) for name, p in self._results(rows).items()}

    def result(self, name: str, rows: int) -> Array:
        """One of them."""
        return self.workspace.memory.read(*self._results(rows)[f"%{name}"])

    def step_into(
        self, arrays: dict[str, DeviceArray], first: int, total: int, **inputs: Array
    ) -> None:
        """Run the plan once; results become the rows from `first` on of arrays on the device.

        Those that are missing are made, for `total` rows. `finish` waits for what was enqueued.
        """
        with self.workspace.turns.take():
            self.workspace.enter()
            for name, (address, shape, kind) in self._results(self.begin(**inputs)).items():
                key = name[1:]
                if key not in arrays:
                    arrays[key] = self.workspace.device_array((total, *shape[1:]), kind)
                row = math.prod(shape[1:]) * kind.itemsize
                target = arrays[key].address + first * row
                self.workspace.memory.copy(target, address, shape[0] * row)

    def finish(self) -> None:
        """Wait until everything that was enqueued is done. Raises FusecError where it failed."""
        with self.workspace.turns.take():
            self.workspace.enter()
            self.workspace.driver.synchronize(self.workspace.stream)

    def prepare(self, rows: int) -> None:
        """Have everything on the GPU that a step of so many rows needs."""
        self._prepare(rows)

    def places(self, rows: int) -> dict[str, int]:
        """Name -> where on the device a step of so many rows, which is prepared, leaves a result.

        Row r of it is r rows further on.
        """
        return {name[1:]: address for name, (address, *_) in self._results(rows).items()}

    def _results(self, rows: int) -> dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]:
        """Name -> address, shape and type of what a step of so many rows gives."""
        index = self._variant(rows)
        places, arena = self._plans[index].output_args, self._arenas[index]
        return {
            name: (
                self.workspace.address(places[name], arena),
                (rows, *tensor.shape[1:]),
                np.dtype(dtype(tensor.dtype).numpy),
            )
            for name, tensor in self._outputs.items()
        }

    def begin(self, **inputs: Array) -> int:
        """Enqueue one step on these inputs; how many rows they are. See `Session.step`."""
        rows = check_inputs(self.plan, inputs, self._limits)
        check_order(self.plan, inputs, self._in_order)
        for name, array in inputs.items():
            self.workspace.write(Arg("input", f"%{name}"), array)
        for name in self._positions:
            self.workspace.cache.reach(int(inputs[name].min()), int(inputs[name].max()) + 1)
        self.run(rows)
        return rows

    def run(self, rows: int = 1) -> None:
        """Enqueue one step on the inputs that lie on the device, of which there are so many rows.

        Whoever has put positions there has made room for them in the cache.

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
        """See `Session`."""
        with self.cached() as cache:
            cache.cut(0)

    @contextmanager
    def cached(self) -> Iterator[CudaCache]:
        """See `Session`."""
        with self.workspace.turns.take():
            self.workspace.enter()
            yield self.workspace.cache

    def close(self) -> None:
        """Give back the workspace, for every session that shares it."""
        self.workspace.close()
