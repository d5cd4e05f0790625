"""What all plans of a model share on the GPU: kernels, weights, tables, KV cache and inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.plan import ROWS, Arg, LaunchPlan, Tensor
from fusec.runtime.cuda.cache import CudaCache
from fusec.runtime.cuda.device_array import DeviceArray
from fusec.runtime.cuda.driver import Driver, Executable, Function, Handle
from fusec.runtime.cuda.memory import Memory
from fusec.runtime.cuda.window import Residency, attributes, decide, offsets, order_of_weights
from fusec.runtime.session import Array, bound_weight, tables
from fusec.runtime.turns import Turns

Executables = Callable[[Collection[str]], Mapping[str, Executable]]
"""Kernels by their names."""


@dataclass(frozen=True)
class Packing:
    """How weights become what kernels read: `nbytes(tensor)` of `pack(tensor, raw)`.

    `raw` is `uint8[rows, row bytes]`, as the model file has it.
    """

    nbytes: Callable[[Tensor], int]
    pack: Callable[[Tensor, Array], Array]


class Workspace:
    """Memory and kernels for `plans`, which agree on inputs but for T, states and weights.

    `executables` gives the plans' kernels and whatever else is launched between them, which may
    take long; those named `at_once` are needed at once. A session may have a plan that needs more
    room for activations than these (see `arena`).
    `weight` gives a tensor's raw bytes by its GGUF name. Raises FusecError where the GPU cannot run
    the kernels or has too little memory, and for weights that are not what the plans take; the
    driver is closed then.
    """

    def __init__(
        self,
        driver: Driver,
        plans: Sequence[LaunchPlan],
        executables: Executables,
        at_once: Iterable[str],
        weight: Callable[[str], Array],
        packing: Packing,
        l2: str = "auto",
    ) -> None:
        first = plans[0]
        self.driver, self.turns = driver, Turns("engine")
        self._graphs: list[Handle] = []
        self._executables = executables
        self._functions: dict[str, Function] = {}
        self.residency: Residency | None = None
        self.stream, self._side = driver.stream(), driver.stream()
        self._capturing = self._forked = False
        self.memory = Memory(driver, self.stream)
        try:
            self.need(at_once)
            wanted = l2 in ("prefetch", "auto") and first.prefetches
            self._prefetches = wanted and "prefetch" in self._functions
            weights = self._upload(first, weight, packing, l2)
            self._arena_bytes = max(plan.reach for plan in plans)
            self._arena = self.memory.empty(self._arena_bytes, "the activations")
            self._larger = (0, 0)
            self.cache = CudaCache(first, self.memory)
            widest = max(plans, key=lambda plan: plan.tokens)
            self._places = {
                "state": self.cache.states,
                "pages": self.cache.tables,
                "input": self._tensors(widest.inputs, "the inputs"),
                "rows": {ROWS.name: self.memory.zeros(4, "the number of rows")},
                "table": {
                    name: self.memory.upload(table, "a table")
                    for name, table in tables(first, weight).items()
                },
                "weight": weights,
            }
        except BaseException:
            self.close()
            raise

    def enter(self) -> None:
        """Make the GPU's context current in this thread, before anything is enqueued.

        To be called inside `turns.take`. Raises FusecError once the workspace is closed: its memory
        is gone.
        """
        self.turns.check()
        self.driver.activate()

    def arena(self, plan: LaunchPlan) -> int:
        """Where a plan's activations lie: with the others', or apart if they need more room.

        So memory for the logits of many rows is taken when somebody asks for them.
        """
        if plan.reach <= self._arena_bytes:
            return self._arena
        if plan.reach > self._larger[0]:
            self._larger = plan.reach, self.memory.empty(plan.reach, "activations of many rows")
        return self._larger[1]

    def address(self, arg: Arg, arena: int | None = None) -> int:
        """Where on the device a launch's argument lies. `arena`: the plan's, if it has its own."""
        if arg.kind == "arena":
            return (self._arena if arena is None else arena) + arg.offset
        return self._places[arg.kind][arg.name]

    def write(self, arg: Arg, array: Array) -> None:
        """Copy an array to an argument's memory."""
        self.memory.write(self.address(arg), array)

    def read(self, arg: Arg, tensor: Tensor, arena: int | None = None) -> Array:
        """An argument's memory as a new array, once the stream has come this far."""
        plain = np.dtype(dtype(tensor.dtype).numpy)
        return self.memory.read(self.address(arg, arena), tensor.shape, plain)

    def device_array(self, shape: tuple[int, ...], kind: np.dtype[Any]) -> DeviceArray:
        """A new array on the device, whose memory is given back when nobody has it any more."""

        def free(address: int) -> None:
            if not (self.turns.is_forked or self.turns.closed):
                self.driver.activate()
                self.memory.release(address)

        def read(address: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
            with self.turns.take():
                self.enter()
                return self.memory.read(address, shape, kind)

        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        address = self.memory.empty(nbytes, "traced values")
        return DeviceArray(address, shape, kind, free, read)

    def need(self, names: Iterable[str]) -> None:
        """Have kernels on the GPU. To be called before a graph is captured."""
        if missing := [name for name in names if name not in self._functions]:
            for executable in self._executables(missing).values():
                self.add(executable)

    def add(self, executable: Executable) -> None:
        """Load a kernel, to be launched by its name."""
        self.use(self.driver.load(executable))

    def use(self, function: Function) -> None:
        """Launch this one by its name, from the next launch or capture on."""
        self._functions[function.name] = function

    def launch(
        self, name: str, pointers: Sequence[int], early: bool = False, rows: int = 1
    ) -> None:
        """Enqueue a kernel, for so many rows of a step.

        `early`: it may start while the one in front of it runs.
        """
        attributes = self._early if early else self._attributes
        self.driver.launch(self._functions[name], pointers, self.stream, attributes, rows)

    def clusters_at_once(self, name: str, cluster: int) -> int:
        """How many clusters of a kernel's blocks can be on the GPU at once: its grid's, at most."""
        return self.driver.clusters_at_once(self._functions[name], cluster, self.stream)

    def launch_at_once(self, name: str, pointers: Sequence[int], blocks: int) -> None:
        """Enqueue so many blocks of a kernel, which begins when there is room for all of them."""
        function = replace(self._functions[name], grid=blocks)
        attributes = (*self._attributes, self.driver.cooperative())
        self.driver.launch(function, pointers, self.stream, attributes)

    def stretches(self, weights: Sequence[str]) -> list[tuple[int, int]]:
        """Where weights to prefetch lie, (start, end), neighbours as one; none if that is off."""
        found: list[tuple[int, int]] = []
        for start, end in sorted(self._extents[name] for name in weights if self._prefetches):
            if found and found[-1][1] == start:
                found[-1] = found[-1][0], end
            else:
                found.append((start, end))
        return found

    def prefetch(self, stretches: Sequence[tuple[int, int]]) -> None:
        """In a graph, bring weights into L2 beside what the stream does next; else do nothing."""
        if not self._capturing or not stretches:
            return
        self.driver.follow(self._side, self.stream)
        for stretch in stretches:
            self.driver.launch(self._functions["prefetch"], stretch, self._side, ())
        self._forked = True

    def capture(self, enqueue: Callable[[], None]) -> Handle:
        """What `enqueue` launches, as a graph that lives as long as the workspace."""
        self._capturing, self._forked = True, False

        def all_of_it() -> None:
            enqueue()
            if self._forked:
                self.driver.follow(self.stream, self._side)

        try:
            graph = self.driver.capture(self.stream, all_of_it)
        finally:
            self._capturing = False
        self._graphs.append(graph)
        return graph

    def release(self, graph: Handle) -> None:
        """Give back one of `capture`'s graphs before the end."""
        self._graphs.remove(graph)
        self.driver.release(graph)

    def close(self) -> None:
        """Give back memory, graphs and kernels; a second call does nothing.

        Nor does one in a forked child, which has no part in the GPU's context.
        """
        if self.turns.is_forked or self.turns.closed:
            return
        with self.turns.take():
            self.turns.closed = True
            self.driver.activate()
            self.driver.synchronize(self.stream)
            for graph in self._graphs:
                self.driver.release(graph)
            if self.residency is not None and self.residency.carve_out:
                self.driver.set_persisting(0)
            self.memory.close()
            for stream in (self.stream, self._side):
                self.driver.call("cuStreamDestroy", stream)
            self.driver.close()

    def _tensors(self, tensors: Mapping[str, Tensor], what: str) -> dict[str, int]:
        return {
            name: self.memory.zeros(dtype(t.dtype).nbytes(t.shape), what)
            for name, t in tensors.items()
        }

    def _upload(
        self, plan: LaunchPlan, weight: Callable[[str], Array], packing: Packing, l2: str
    ) -> dict[str, int]:
        """All weights in one allocation, those of layers in front under the L2 window.

        They are repacked one by one, so that this machine holds no second copy of the model.
        """
        inside, outside = order_of_weights(plan)
        names = inside + outside
        starts, end = offsets(packing.nbytes(plan.weights[name]) for name in names)
        base = self.memory.empty(end, "the model's weights")
        found = {name: base + start for name, start in zip(names, starts, strict=True)}
        for name, pointer in found.items():
            self.memory.write(pointer, packed(plan, name, weight, packing))
        ends = [*starts[1:], end]
        self._extents = {n: (found[n], base + e) for n, e in zip(names, ends, strict=True)}
        self.weights_bytes = end
        window = starts[len(inside)] if outside else end
        self.residency = decide(self.driver, l2, window)
        self._attributes: Sequence[Any] = attributes(self.driver, self.residency, base)
        self._early = (*self._attributes, self.driver.early()) if plan.overlaps else ()
        return found


def packed(plan: LaunchPlan, name: str, weight: Callable[[str], Array], packing: Packing) -> Array:
    """One weight as kernels read it; only the caller has it, so that it is gone once written."""
    tensor = plan.weights[name]
    raw = bound_weight(plan, name, weight).reshape(-1).view(np.uint8)
    rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
    found = packing.pack(tensor, raw.reshape(rows, -1))
    if found.nbytes != packing.nbytes(tensor):
        raise FusecError(
            f"{plan.name}: expected weight {name} as {packing.nbytes(tensor):,} bytes, "
            f"found {found.nbytes:,}"
        )
    return found
