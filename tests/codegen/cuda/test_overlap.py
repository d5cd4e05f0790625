"""Kernels that start early: what they do in front of the wait, and what only behind it."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fusec import driver
from fusec.codegen.cuda import control
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.toolchain import Cubin
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.ops import op
from fusec.ir.plan import Kernel
from fusec.ir.region import parameters
from fusec.ir.text import parse
from tests.codegen.cuda.ptx import Program
from tests.graphs import llama_graph
from tests.shapes import graph_of

WAIT, LAUNCH = "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"
LOADS_ALL_FIRST = {
    "norm_matvec_rope_kv", "combine_matvec_add", "norm_matvec_silu_mul", "matvec_add",
    "sum_norm_matvec_rope_kv", "sum_norm_matvec_silu_mul", "sum_norm_matvec_silu_mul_parts",
}  # fmt: skip
EMBEDS = "embed_norm_matvec_rope_kv"
ATTENDS = ("attention_spans", "attention_project")

pytestmark = pytest.mark.xdist_group("overlap")


@cache
def assembled() -> list[tuple[str, Graph, Program, Cubin]]:
    """Kind, region and code of every kernel of SmolLM2-135M's plans at -O3: four layers have all.

    The second plan has the projection apart from attention, as in a longer context, and that of
    the feed-forward network apart from its vector, as in a wider model.
    """
    kinds, regions, kernels = {}, {}, {}
    graph = graph_of("smollm2-135m", layers=4, context=2048)
    for disable in ([], ["project-heads", "project-rows"], ["project-rows"]):
        compiled = driver.compile(graph, target="sm_90a", level=3, disable=disable)
        kinds |= {
            x.kernel: kind_of(compiled.graph.producers[x.node]) for x in compiled.plan.launches
        }
        regions |= {kernel.name: parse(kernel.region) for kernel in compiled.plan.kernels}
        kernels |= compiled.kernels
    cubins = compile_many([kernels[name] for name in regions], "sm_90a")
    return [(kinds[c.name], regions[c.name], Program(c.ptx), c) for c in cubins]


def kind_of(node: Node) -> str:
    """A launch's kind, whether or not its parts are added to sums and it clears some."""
    return re.sub("(_added)?(_clear)?$", "", node.kind)


def is_fixed(region: Graph, value: Value) -> bool:
    """Whether nobody writes it while a plan runs: weights, and what memory is indexed with.

    Whole numbers that index none, the places of `argmax_parts`, come from the launch in front.
    """
    indexes = (
        node.inputs[place].name == value.name and bound is not None
        for node in region.nodes
        for place, bound in op(node.op).indices.items()
    )
    return value.is_weight or any(indexes)


def fixed_numbers(region: Graph) -> tuple[set[int], set[int]]:
    """Numbers of the parameters that may be read before the wait, and of states among them."""
    bound = parameters(region)
    made = {v.name for v in region.outputs}
    states = {i for i, v in enumerate(bound) if v.is_state}
    fixed = {i for i, v in enumerate(bound) if is_fixed(region, v) and v.name not in made}
    return fixed | set(range(len(bound), len(bound) + 8)), states  # tables follow


# --- machine code --------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.slow
def test_kernels_assemble_without_spills() -> None:
    for _, _, _, cubin in assembled():
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name


@pytest.mark.cuda
@pytest.mark.slow
def test_all_kernels_wait_once_and_let_the_next_begin_at_that() -> None:
    """Or with their first line; or, where blocks share what they make, when they have read."""
    for kind, region, program, _ in assembled():
        (wait,), (launch,) = program.find(WAIT), program.find(LAUNCH)
        first, then = sorted((wait, launch))
        assert program.dominates(first, then), kind
        shares = any(n.op == "matvec_parts" for n in region.nodes)
        if not shares and any(access.index < launch for access in program.accesses):
            assert not any(first < access.index < then for access in program.accesses), kind
        if kind != "attention_spans":  # blocks of spans behind the position have nothing to do
            assert all(program.only_behind(WAIT, end) for end in program.find("ret;")), kind


@pytest.mark.cuda
@pytest.mark.slow
def test_activations_and_results_are_only_touched_behind_the_wait() -> None:
    for kind, region, program, _ in assembled():
        fixed, states = fixed_numbers(region)
        assert program.accesses, kind
        for access in program.accesses:
            assert access.parameters, (kind, program.lines[access.index])
            if access.kind == "ld" and access.parameters <= fixed:
                continue
            if kind in ATTENDS and access.kind == "ld" and access.parameters <= states:
                continue  # rows of earlier tokens; the newest is read again behind the wait
            behind = program.only_behind(WAIT, access.index)
            assert behind, (kind, program.lines[access.index])


@pytest.mark.cuda
@pytest.mark.slow
def test_weights_are_loaded_before_the_wait() -> None:
    seen = set()
    for kind, region, program, _ in assembled():
        if kind not in {*LOADS_ALL_FIRST, EMBEDS, "attention_project"}:
            continue
        seen.add(kind)
        bound = parameters(region)
        matrices = {n.inputs[1].name for n in region.nodes if n.op == "matvec"}
        if kind == "attention_project":
            matrices = {v.name for v in bound if v.is_weight}
        first = {i for i, v in enumerate(bound) if v.name in matrices}
        if kind in LOADS_ALL_FIRST:  # there is no embedding to wait for
            first, _ = fixed_numbers(region)
        loads = [a for a in program.accesses if a.kind == "ld" and a.parameters & first]
        loaded = set().union(*(a.parameters for a in loads))
        assert {i for i, v in enumerate(bound) if v.is_weight and i in first} <= loaded, kind
        for access in loads:
            late = any(program.can_follow(wait, access.index) for wait in program.find(WAIT))
            assert not late, (kind, program.lines[access.index])
    assert seen == {*LOADS_ALL_FIRST, EMBEDS, "attention_project"}


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize("kind", ATTENDS)
def test_the_newest_row_is_read_again_behind_the_wait(kind: str) -> None:
    found = [(region, program) for its, region, program, _ in assembled() if its == kind]
    assert found
    for region, program in found:
        _, states = fixed_numbers(region)
        reads = [a for a in program.accesses if a.kind == "ld" and a.parameters <= states]
        after = [a for a in reads if program.only_behind(WAIT, a.index)]
        assert len(states) == 2 and len(reads) == 2 * len(after) > 0
        for state in states:
            assert any(a.parameters == {state} for a in after)


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvdisasm") is None, reason="nvdisasm is not installed")
def test_the_assembler_keeps_that_order(tmp_path: Path) -> None:
    """In SASS the wait is ACQBULK; weights are what is loaded past the L1 cache."""
    for kind, _, _, cubin in assembled():
        if kind not in LOADS_ALL_FIRST:
            continue
        path = tmp_path / f"{cubin.name}.cubin"
        path.write_bytes(cubin.data)
        command = ["nvdisasm", "-c", str(path)]
        sass = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.findall(r"\b(?:LDG\.E\.NA|STG|ACQBULK)\b", sass)
        wait = found.index("ACQBULK")
        assert set(found[:wait]) == {"LDG.E.NA"}, kind
        assert set(found[wait + 1 :]) == {"STG"}, kind


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "level"), [("sm_80", 3), ("sm_90a", 2)])
def test_other_plans_have_kernels_that_do_not_wait(target: str, level: int) -> None:
    compiled = driver.compile(llama_graph(), target=target, level=level)
    for kernel in compiled.kernels.values():
        assert "griddep" not in kernel.source and "settle" not in kernel.source, kernel.name


def test_control_kernels_wait_where_the_plan_overlaps() -> None:
    for early, late in zip(control.kernels(64, True), control.kernels(64), strict=True):
        wait = "    griddep_wait()\n    griddep_launch()\n"
        assert early.source.count(wait) == 1
        assert "griddep" not in late.source
        body = early.source[early.source.index("def ") :]
        assert body.splitlines()[1].strip() == "griddep_wait()"


@pytest.mark.cuda
def test_advance_best_reads_in_front_of_its_wait_only_what_the_last_token_left() -> None:
    (cubin,) = compile_many([control.advance_best(1024, True)], "sm_90a")
    program = Program(cubin.ptx)
    ((wait,), (launch,)) = program.find(WAIT), program.find(LAUNCH)
    early = [a for a in program.accesses if not program.dominates(wait, a.index)]
    assert [(a.kind, a.parameters) for a in early] == [("ld", {4}), ("ld", {5})]  # pos, step
    late = [a for a in program.accesses if a not in early]
    assert {a.kind for a in late if a.parameters & {0, 1}} == {"ld"}  # tops and their places
    assert {0, 1} <= {n for a in late for n in a.parameters}
    assert {n for a in late if a.kind == "st" for n in a.parameters} == {2, 3, 4, 5, 6, 7}
    assert program.dominates(wait, launch)


def test_a_plan_that_overlaps_gets_such_control_kernels(tiny_model: Path) -> None:
    for level, waits in ((2, False), (3, True)):
        kernels = driver.compile(tiny_model, target="sm_90a", level=level).kernels
        assert ("advance_best" in kernels) == (level == 3)
        for name in ("advance", "feed", "sample"):
            assert ("griddep_wait()" in kernels[name].source) == waits


def test_a_kernel_is_another_one_where_it_waits() -> None:
    """Its source differs, so the cache of cubins keeps both apart."""
    from fusec.codegen.cuda.emit import emit

    compiled = driver.compile(llama_graph(layers=1), target="sm_90a", level=3)
    for kernel in compiled.plan.kernels:
        plain = emit(Kernel(kernel.name, kernel.region))
        assert plain.source != compiled.kernels[kernel.name].source
