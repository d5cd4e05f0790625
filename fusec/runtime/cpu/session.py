"""A session on the CPU: a plan's memory, its arguments as a table, and the team that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from fusec.ir.dtypes import dtype
from fusec.ir.plan import Arg, LaunchPlan
from fusec.runtime.cpu.cache import CpuCache
from fusec.runtime.cpu.team import Team
from fusec.runtime.session import (
    Array,
    bound_weight,
    cached_positions,
    check_inputs,
    limits,
    tables,
)
from fusec.runtime.turns import Closing, Turns
from fusec.writer import brief

LINE = 64  # bytes: vectors start on a cache line


class CpuSession(Closing):
    """One plan bound to memory.

    `addresses` gives each kernel's C function, `scratch_bytes` what it needs per thread and token.
    `weight` gives a tensor's raw bytes by its GGUF name; they are read in place, so a memory-mapped
    file is never copied. `cache` may be shared with sessions of other plans of the same states.
    Raises FusecError for weights that are not what the plan takes.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        addresses: Mapping[str, int],
        scratch_bytes: Mapping[str, int],
        weight: Callable[[str], Array],
        team: Team,
        cache: CpuCache | None = None,
    ) -> None:
        self.plan, self.team = plan, team
        self._turns = Turns("session")
        self._limits, self._places = limits(plan), cached_positions(plan)
        self.cache = CpuCache(plan) if cache is None else cache
        self.arena = aligned(plan.arena_bytes)
        self.inputs = {
            name: np.zeros(t.shape, dtype(t.dtype).numpy) for name, t in plan.inputs.items()
        }
        # contiguous arrays kept alive here: the argument table holds bare addresses
        self._weights = {name: bound_weight(plan, name, weight) for name in plan.weights}
        self._tables = tables(plan, weight)
        needed = max((scratch_bytes[k.name] for k in plan.kernels), default=0) * plan.tokens
        self._scratch = aligned(max(needed, LINE) * team.threads)

        width = 3 + max(len(launch.args) for launch in plan.launches)
        self.kernels = np.array([addresses[x.kernel] for x in plan.launches], np.int64)
        self.args = np.zeros((len(plan.launches), width), np.int64)
        self.args[:, 1] = self._scratch.ctypes.data
        self.args[:, 2] = max(needed, LINE)
        for row, launch in zip(self.args, plan.launches, strict=True):
            row[3 : 3 + len(launch.args)] = [self._address(arg) for arg in launch.args]
        written = {name for launch in plan.launches for name in launch.writes}
        self._outputs = {
            name[1:]: self._view(plan.output_args[name], t.dtype, t.shape)
            for name, t in plan.outputs.items()
            if plan.output_args[name].name in written or plan.output_args[name].kind != "arena"
        }

    def __repr__(self) -> str:
        return brief(self, f"{self.plan.name}: {self.plan.summary}")

    def step(self, **inputs: Array) -> dict[str, Array]:
        """Run the plan once; what it returns are copies. See `Session.step`."""
        with self._turns.take():
            self._turns.check()
            tokens = check_inputs(self.plan, inputs, self._limits)
            for name in self._places:
                self.cache.reach(int(inputs[name].min()), int(inputs[name].max()) + 1)
            for name, array in inputs.items():
                self.inputs[f"%{name}"][:tokens] = array
            self.args[:, 0] = tokens
            self.team.run(self.kernels, self.args)
            return {name: view[:tokens].copy() for name, view in self._outputs.items()}

    def reset(self) -> None:
        """See `Session`."""
        with self.cached() as cache:
            cache.cut(0)

    @contextmanager
    def cached(self) -> Iterator[CpuCache]:
        """See `Session`."""
        with self._turns.take():
            self._turns.check()
            yield self.cache

    def close(self) -> None:
        """End the team, for every session that shares it, and let go of memory and weights."""
        if self._turns.is_forked:
            return
        with self._turns.take():
            self._turns.closed = True
            self.team.close()
            self.arena = self._scratch = aligned(0)
            self.kernels, self.args = self.kernels[:0], self.args[:0]
            for owned in (self.inputs, self._weights, self._tables, self._outputs):
                owned.clear()
            vars(self).pop("cache", None)  # whoever shares it has it still

    def _address(self, arg: Arg) -> int:
        if arg.kind == "arena":
            return int(self.arena.ctypes.data) + arg.offset
        if arg.kind == "pages":
            return int(self.cache.table(arg.name).ctypes.data)
        owner = {
            "input": self.inputs,
            "state": self.cache.states,
            "weight": self._weights,
            "table": self._tables,
        }[arg.kind]
        return int(owner[arg.name].ctypes.data)

    def _view(self, arg: Arg, kind: str, shape: tuple[int, ...]) -> Array:
        if arg.kind != "arena":
            return self.inputs[arg.name] if arg.kind == "input" else self.cache.states[arg.name]
        plain, nbytes = np.dtype(dtype(kind).numpy), dtype(kind).nbytes(shape)
        return self.arena[arg.offset : arg.offset + nbytes].view(plain).reshape(shape)


def aligned(nbytes: int) -> Array:
    """Uninitialised bytes that start on a cache line."""
    raw = np.empty(nbytes + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + nbytes]
