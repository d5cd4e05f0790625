"""The cost model: its counts against PTX, its times against measured ones, and what it decides."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fusec import driver
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.ir import Builder, gpus
from fusec.ir.text import parse
from fusec.passes import cost
from fusec.passes.lower import lower
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import llama_graph
from tests.passes.stages import pass_of
from tests.shapes import compiled_135m
from tests.targets import ANY

H200 = gpus.find("H200")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

pytestmark = pytest.mark.xdist_group("135m")  # they share its plans


def matvec(rows: int, columns: int, dtype: str = "iq4_nl", norm: bool = False):
    b = Builder("one")
    x = b.input("x", (1, columns))
    if norm:
        x = b.rms_norm(x, b.weight("g", (columns,)), eps=1e-5)
    return b.build(b.matvec(x, b.weight("w", (rows, columns), dtype)))


def kernel_of(graph):
    return lower(graph, "cuda", 0).kernels[-1]


def ptx_instructions(ptx: str) -> int:
    lines = (line.strip() for line in ptx.splitlines())
    return sum(line.endswith(";") and line[0] not in "./{}" for line in lines if line)


@pytest.mark.cuda
def test_instructions_are_those_of_the_emitted_code():
    dtypes = ("f16", "q8_0", "iq4_nl", "iq4_xs", "q5_k", "q6_k")
    sizes = [*zip(dtypes, 3 * [768, 1536], strict=True), ("f16", 1536), ("q6_k", 768)]
    graphs = {(dtype, columns): matvec(1056, columns, dtype) for dtype, columns in sizes}
    layer = llama_graph(layers=1, width=576, ffn=1536, heads=9, kv_heads=3, vocab=1056)
    for node in layer.nodes:
        if node.op in ("attention", "add", "silu", "mul", "rope", "kv_append"):
            graphs[node.op, node.outputs[0].shape] = node.region
    kernels = {key: kernel_of(graph) for key, graph in graphs.items()}
    cubins = compile_many([emit(k) for k in kernels.values()], "sm_90a")
    for (key, kernel), cubin in zip(kernels.items(), cubins, strict=True):
        (work,) = cost.works(parse(kernel.region), H200)
        assert work.instructions == pytest.approx(ptx_instructions(cubin.ptx), rel=0.35), key


def test_cost_of_parts():
    small, large = (cost.launch_us(matvec(n, 576), H200) for n in (576, 49152))
    assert small.boundary < H200.boundary < large.boundary
    assert small.total == small.boundary + small.chain + max(small.memory, small.compute)
    assert large.memory == pytest.approx(49152 * 576 / 32 * 18 / H200.memory_bytes / 1e3, rel=0.25)
    early = cost.launch_us(matvec(576, 576), H200, early=True)
    assert small.boundary - early.boundary == pytest.approx(H200.boundary - H200.early)
    assert early.compute < small.compute  # weights are decoded before the wait
    near = cost.launch_us(matvec(49152, 576), H200, far=False)
    assert near.memory < large.memory
    normed = cost.launch_us(
        run_passes(matvec(576, 576, norm=True), passes_of(2), ANY)[-1].graph.nodes[0], H200
    )
    assert small.total < normed.total < small.total + H200.boundary


def test_few_blocks_reach_little_bandwidth():
    b = Builder("one")
    one_block = b.build(b.argmax(b.input("x", (1, 1 << 20))))
    found = cost.launch_us(one_block, H200)
    assert found.memory == pytest.approx(4 * (1 << 20) / H200.sm_bytes / 1e3)


def test_attention_grows_with_the_position():
    graph = llama_graph(layers=1, width=576, heads=9, kv_heads=3, context=4096)
    node = next(n for n in graph.nodes if n.op == "attention")
    times = [cost.launch_us(node, H200, position=p).total for p in (15, 1000, 4000)]
    assert times[0] < times[1] < times[2]
    moved = [cost.moved(node, p) for p in (9, 19)]
    assert moved[1] - moved[0] == 10 * 2 * 3 * 64 * 2  # positions, k and v, heads of 64, f16


def test_bytes_moved_count_one_row_of_an_embedding():
    graph = llama_graph(layers=1, vocab=64)
    assert cost.moved(graph.nodes[0]) == 4 + 64 // 32 * 18 + 64 * 4
    product = next(n for n in graph.nodes if n.op == "matvec")
    assert cost.moved(product) == sum(v.nbytes for v in (*product.inputs, *product.outputs))


def test_weights_that_fit_l2_stay_there():
    plan = lower(llama_graph(), "sm_90a", 0)
    assert cost.resident(plan, H200)
    tiny = replace(H200, l2_bytes=plan.weights_bytes)
    assert not cost.resident(plan, tiny)
    assert cost.token_us(plan, H200) < cost.token_us(plan, tiny)


@pytest.mark.parametrize("level", [2, 3])
def test_an_argmax_that_hands_the_token_on_is_no_launch_more(level):
    plan = driver.compile(llama_graph(), target="sm_90a", level=level).plan
    launches = sum(c.total for c in cost.token_costs(plan, H200))
    around = H200.gap if level == 3 else H200.gap + H200.touch
    assert cost.token_us(plan, H200) == pytest.approx(launches + around)


def test_a_resident_kernel_has_exchanges_instead_of_boundaries():
    plans = {n: driver.compile(llama_graph(), target="sm_90a", level=n).plan for n in (2, 3)}
    assert cost.resident_us(plans[2], H200) is None
    costs = cost.token_costs(plans[3], H200)
    exchange = 4 * H200.load + 2 * H200.barrier
    work = sum(c.chain + max(c.memory, c.compute) for c in costs)
    found = cost.resident_us(plans[3], H200)
    assert found == pytest.approx(work + (len(costs) + 1) * exchange)
    faster = replace(H200, load=H200.load / 2)
    assert cost.resident_us(plans[3], faster) < found


def profiled(level: int) -> dict:
    """What `fusec profile` measured on the H200."""
    path = RESULTS / f"h200-profile-O{level}.json"
    if not path.is_file():
        pytest.skip(f"-O{level} has no profile on file")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("level", sorted(LEVELS))
def test_predictions_are_within_the_promised_error(level):
    found = profiled(level)
    plan = compiled_135m(level).plan
    guess = cost.token_us(plan, H200, position=found["position"])
    assert guess == pytest.approx(found["token"], rel=cost.ERROR)


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_kernels_take_about_what_is_predicted_for_them(level):
    """Each kernel back to back with itself; what it shares with its neighbours is in the token.

    Names hold digests, which change with the ways values are numbered. The plan's order does not.
    """
    found = list(profiled(level)["kernels"].values())
    plan = compiled_135m(level).plan
    costs = cost.token_costs(plan, H200, position=80)
    guesses = {x.kernel: c.total for x, c in zip(plan.launches, costs, strict=True)}
    launches = Counter(x.kernel for x in plan.launches)
    assert [kernel["launches"] for kernel in found] == list(launches.values())
    errors = {
        name: guess / kernel["alone"] - 1
        for (name, guess), kernel in zip(guesses.items(), found, strict=True)
    }
    assert all(abs(error) < 0.4 for error in errors.values()), errors


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_the_walls_sum_to_the_token(level):
    found = profiled(level)
    assert found["sum"] == pytest.approx(sum(found["walls"].values()))
    # where launches overlap, clusters behind their like find less room than in the token
    assert found["sum"] == pytest.approx(found["token"], rel=0.15 if level < 3 else 0.2)
    naive = sum(found["naive_walls"].values())
    assert naive == pytest.approx(found["naive"]["eager, host sampling"], rel=0.15)


def test_a_merge_that_is_slower_is_refused():
    """Without a boundary to save, a norm made anew by every block is not worth it."""
    graph = matvec(16 * H200.sms, 8192, "f16", norm=True)
    fuse = pass_of("fuse-prologue")
    free = replace(H200, boundary=0.0, touch=0.0, far_load=H200.load, tree=0.0, instruction=0.0)
    free = replace(free, memory_bytes=1e9, cache_bytes=1e9, sm_bytes=1e9)
    after, hits, refused = fuse.run(graph, replace(ANY, gpu=free))
    assert hits == 0
    assert after == graph
    (refusal,) = refused
    assert refusal.reason.startswith("slower: ")
    assert fuse.run(graph, replace(ANY, gpu=H200))[1] == 1
    assert fuse.run(graph, ANY)[1] == 1


def test_on_an_h200_no_merge_of_the_levels_is_refused_as_slower():
    for level in LEVELS:
        for stage in compiled_135m(level).stages:
            assert not [r for r in stage.refused if r.reason.startswith("slower")]
