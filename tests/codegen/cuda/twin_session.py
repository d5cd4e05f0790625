"""A launch plan executed by the NumPy twins, beside the float64 reference on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from fusec.backends.cuda import pack
from fusec.codegen import formats
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.rows import rows_of_block
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.codegen.cuda.twins_order import Trace
from fusec.ir import Graph
from fusec.ir.choice import AnyChoice
from fusec.ir.dtypes import dtype
from fusec.ir.ops import in_place
from fusec.ir.pages import kind_of
from fusec.ir.plan import Kernel, Launch, layers
from fusec.ir.reference import Reference
from fusec.ir.tables import make_table
from fusec.ir.target import Target
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.rule import Rule
from fusec.runtime.session import positions
from tests.codegen.blocks import random_rows
from tests.codegen.cuda import paged
from tests.targets import ANY


def random_weights(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Name -> float32 vector, or raw rows of a matrix, for every weight of a graph."""
    rng = np.random.default_rng(seed)
    weights = {}
    for k, w in enumerate(graph.weights):
        if len(w.shape) == 1:
            weights[w.name] = rng.uniform(0.5, 1.5, w.shape).astype(np.float32)
        else:
            weights[w.name] = random_rows(formats.get(w.dtype), *w.shape, seed=seed + k)
    return weights


def reference(graph: Graph, weights: dict[str, np.ndarray]) -> Reference:
    types = {w.name: w.dtype for w in graph.weights}

    def decoded(name: str) -> np.ndarray:
        raw = weights["@" + name]
        return formats.get(types["@" + name]).decode(raw) if raw.dtype == np.uint8 else raw

    return Reference(graph, decoded)


class TwinSession:
    """Runs the kernels of a graph compiled at a level; state is kept between steps.

    `rows`: the row of each position in the memory of states.
    """

    def __init__(
        self,
        graph: Graph,
        weights: dict[str, np.ndarray],
        level: int,
        rules: tuple[Rule, ...] = (),
        target: Target = ANY,
        choose: Callable[[Kernel], AnyChoice | None] = lambda _: None,
        disable: tuple[str, ...] = (),
    ) -> None:
        self.graph = run_passes(graph, passes_of(level, rules, disable), target)[-1].graph
        plan = lower(
            self.graph,
            "cuda",
            level,
            partial(rows_of_block, shared=ARCHS["sm_90a"].shared, sms=ARCHS["sm_90a"].sms),
        )
        self.plan = overlap(plan) if target.overlaps else plan
        self.kernels = {k.name: emit(replace(k, choice=choose(k))) for k in self.plan.kernels}
        self.memory: dict[str, np.ndarray] = {"rows": np.array([graph.tokens], np.uint32)}
        values = (v for n in self.graph.nodes for v in (*n.inputs, *n.outputs))
        for value in (*self.graph.inputs, *values):
            if value.name[0] == "%":
                kind = {"f32": np.float32, "i64": np.uint64}.get(value.dtype, np.uint32)
                shape = value.shape if dtype(value.dtype).numpy else (value.nbytes // 4,)
                self.memory[value.name] = np.zeros(shape, kind)
        for made, source in in_place(self.graph.walk()).items():
            self.memory[made] = self.memory[source]
        context = positions(self.plan) if self.plan.states else 64
        self.rows = paged.rows(context)
        for name, tensor in self.plan.states.items():
            kind = {"f32": np.float32, "f16": np.float16}[tensor.dtype]
            self.memory[name] = paged.memory(np.zeros(tensor.shape, kind))
            self.memory[kind_of(self.plan.windows[name])] = paged.table(context)
        for name, table in self.plan.tables.items():
            self.memory[name] = make_table(table, context, lambda name: weights[f"@{name}"])
        for name, tensor in self.plan.weights.items():
            raw = weights[name]
            self.memory[name] = pack(tensor, raw) if raw.dtype == np.uint8 else raw

    def put(self, inputs: dict[str, np.ndarray]) -> None:
        """Inputs into memory, and into what a step makes, what nobody may read."""
        for name, value in inputs.items():
            target = self.memory["%" + name]
            target[:] = np.asarray(value).astype(target.dtype).reshape(target.shape)
        for value in self.memory:
            made = value[0] == "%" and value[1:] not in inputs
            if made and self.memory[value].dtype == np.float32:
                self.memory[value][:] = np.nan  # nothing may be read that is not written
            elif made and self.memory[value].dtype == np.uint64:
                self.memory[value][:] = 1 << 58  # and nothing added to: such a sum is NaN

    def step(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the plan, by name."""
        self.put(inputs)
        trace = Trace()
        for launch in self.plan.launches:
            self.run(launch, self.kernels[launch.kernel], trace)
        return {v.name[1:]: self.memory[v.name].copy() for v in self.graph.outputs}

    def run(self, launch: Launch, kernel: CudaKernel, trace: Trace) -> None:
        """One launch of the plan, behind those that `trace` knows."""
        arguments = (self.memory[arg.name] for arg in launch.args)
        rows = int(self.memory["rows"][0])
        count = layers(rows, kernel.rows, kernel.spare)
        run_grid(kernel, *arguments, trace=trace, early=launch.early, layers=count)
