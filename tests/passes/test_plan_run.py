"""A plan executed as it stands: each kernel's region by the reference, on one arena of bytes.

Whatever the passes behind the last stage say is taken at its word: which kernel a launch has, what
its parameters are bound to and in which order, the arena's offsets, the states. Only the reference
computes. So a plan that binds, merges or places wrongly gives other logits than its graph.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from fusec.ir import Builder, Graph, Reference
from fusec.ir.dtypes import dtype
from fusec.ir.plan import LaunchPlan
from fusec.ir.region import parameters
from fusec.ir.tables import tables_of
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import Types, llama_graph, random_graphs, weights_for
from tests.targets import ANY, HOPPER, SPLIT

KINDS = {"f32": np.float32, "i32": np.int32}
UNWRITTEN = 0xA5


class PlanRun:
    """A plan bound to memory of its own."""

    def __init__(self, plan: LaunchPlan, weights: dict[str, np.ndarray]) -> None:
        self.plan, self.weights = plan, weights
        self.regions = {launch.kernel: plan.region(launch) for launch in plan.launches}
        self.arena = np.full(plan.arena_bytes, UNWRITTEN, np.uint8)
        self.states = {n: np.zeros(t.shape, np.float32) for n, t in plan.states.items()}
        self.inputs: dict[str, np.ndarray] = {}

    def memory(self, arg, value) -> np.ndarray:
        """What a parameter of a value's type is bound to."""
        if arg.kind == "weight":
            return self.weights[arg.name[1:]]
        if arg.kind == "state":
            return self.states[arg.name]
        if arg.kind == "input":
            return self.inputs[arg.name]
        assert arg.offset % 256 == 0  # what cudaMalloc gives, and as wide loads want it
        nbytes = dtype(value.dtype).nbytes(value.shape)
        assert arg.offset + nbytes <= len(self.arena)
        return self.arena[arg.offset :][:nbytes].view(KINDS[value.dtype]).reshape(value.shape)

    def launch(self, launch) -> None:
        region = self.regions[launch.kernel]
        formal = parameters(region)
        tables = tables_of(region.walk())
        pages = [arg for arg in launch.args if arg.kind == "pages"]  # states lie in order here
        assert len(launch.args) == len(formal) + len(tables) + len(pages)
        assert len(pages) == any(v.is_state for v in formal)
        bound = {v.name: self.memory(a, v) for v, a in zip(formal, launch.args, strict=False)}
        checked = Reference(region, {n[1:]: m for n, m in bound.items() if n[0] == "@"}, np.float32)
        checked.states = {v.name: bound[v.name] for v in region.states}
        found = checked.step(**{v.name[1:]: bound[v.name].copy() for v in region.inputs})
        for value in region.outputs:
            if value.is_state:
                bound[value.buffer][:] = checked.states[value.buffer]
            else:
                bound[value.name][:] = found[value.name[1:]]

    def step(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        self.inputs = {f"%{name}": value for name, value in inputs.items()}
        self.arena[:] = UNWRITTEN
        for launch in self.plan.launches:
            self.launch(launch)
        outputs = self.plan.outputs.items()
        return {n[1:]: self.memory(self.plan.output_args[n], t).copy() for n, t in outputs}


def inputs_of(graph: Graph, position: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(position)
    return {
        v.name[1:]: np.full(v.shape, position if v.name == "%pos" else 3, np.int32)
        if v.dtype == "i32"
        else random.standard_normal(v.shape).astype(np.float32)
        for v in graph.inputs
    }


def check(graph: Graph, plan: LaunchPlan, steps: int = 3) -> None:
    """The plan's outputs and states are the reference's, for some steps."""
    weights = weights_for(graph)
    ran, meant = PlanRun(plan, weights), Reference(graph, weights, np.float32)
    for position in range(steps):
        given = inputs_of(graph, position)
        found, wanted = ran.step(**given), meant.step(**given)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5, err_msg=name)
    for name, state in meant.states.items():
        np.testing.assert_allclose(ran.states[name], state, rtol=2e-4, atol=2e-5, err_msg=name)


@given(random_graphs(max_nodes=20))
@settings(max_examples=40, deadline=None)
def test_a_plan_computes_its_graph(graph: Graph) -> None:
    for level in (0, 2):
        check(graph, lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "any", level))


@pytest.mark.parametrize("target", [ANY, SPLIT, HOPPER], ids=lambda target: target.name)
@pytest.mark.parametrize("level", range(4))
def test_a_model_s_plan_computes_its_decode_step(level: int, target) -> None:
    types = Types("f32")
    graph = llama_graph(types=types, kv="f32", layers=3, rope_factors=True, tied=False)
    plan = lower(run_passes(graph, passes_of(level), target)[-1].graph, "any", level)
    check(graph, overlap(plan) if target.overlaps else plan)


def test_operands_of_one_shape_keep_their_places() -> None:
    """Gate and up, k and v, and two norms: the same types, and not the same meaning."""
    b = Builder("twins")
    x = b.input("x", (1, 32))
    gate, up, down = (b.weight(name, (32, 32)) for name in "gud")
    n = b.rms_norm(x, b.weight("n", (32,)), eps=1e-5)
    h = b.mul(b.silu(b.matvec(n, gate)), b.matvec(n, up))
    y = b.add(b.matvec(h, down), x)
    m = b.rms_norm(y, b.weight("m", (32,)), eps=1e-5)
    graph = b.build(b.matvec(m, up), b.matvec(m, gate), y)
    for level in (0, 1, 2):
        check(graph, lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "any", level), 1)


def test_nodes_that_differ_in_an_attribute_run_as_they_are() -> None:
    b = Builder("attributes")
    x, pos = b.input("x", (1, 32)), b.input("pos", (1,), "i32")
    turned = [
        b.rope(x, pos, **{"base": 1e4, "head_dim": 16, "dims": 16} | given)
        for given in ({}, {"base": 1e5}, {"dims": 8}, {"scale": 0.5}, {"pairing": "halves"})
    ]
    scaled = [b.scale(v, factor=n + 0.5) for n, v in enumerate(turned)]
    capped = [b.softcap(v, cap=n + 0.25) for n, v in enumerate(scaled)]
    graph = b.build(*turned, *scaled, *capped)
    check(graph, lower(run_passes(graph, passes_of(0), ANY)[-1].graph, "any", 0))
