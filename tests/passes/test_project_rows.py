"""A product among the blocks that make its vector: what the pass makes, and what it leaves."""

from dataclasses import replace

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.op_parts import parts_of
from fusec.ir.ops import OPS
from fusec.ir.region import analyse
from fusec.ir.region_heads import NotOneKernel
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.project_rows import ProjectRows
from fusec.passes.split_columns import rows_branch
from tests.graphs import BLOCKS, Types, block_graph, llama_graph, weights_for
from tests.passes.stages import distance, reasons_of, thirty_layers, through
from tests.random_numbers import random_numbers
from tests.targets import AMPERE, ANY, HOPPER

RANDOM = random_numbers(8)
SUMS = HOPPER.column_sums
FLOATS = replace(HOPPER, column_sums=replace(SUMS, formats=frozenset({"f32"})))
"""The pass does not care what a format is, and the reference reads floats."""
TAKING = replace(HOPPER, column_sums=replace(SUMS, formats=SUMS.formats | {"f32"}))
"""Of these as well as of others."""


def network(
    width=64, ffn=192, up="iq4_nl", down="iq4_nl", residual="x", reader="norm", also="",
    factor=False, taken="", split=True,
):  # fmt: skip
    """A feed-forward network, fused up to -O2, and who reads its sum."""
    b = Builder("g")
    x, other = b.input("x", (1, width)), b.input("other", (1, width))
    if taken:
        b.input(taken, (1, 1))

    def norm(value, name):
        return b.rms_factors(value, b.weight(name, (width,)), eps=1e-5)

    h, inverse = norm(x, "n")
    gate, u = (b.matvec(h, b.weight(name, (ffn, width), up), inverse) for name in ("gate", "up"))
    h = b.mul(b.silu(gate), u, name="h")
    y = b.matvec(h, b.weight("w", (width, ffn), down), *([b.weight("f", (1,))] if factor else []))
    outputs = []
    if residual:
        y = b.add(
            y, {"x": x, "other": other, "weight": b.weight("r", (width,))}[residual], name="z"
        )
    if reader == "norm":
        h2, inverse = norm(y, "m")
        outputs.append(b.matvec(h2, b.weight("o", (8, width)), inverse, name="o"))
    else:
        outputs.append(y)
    outputs.append(b.silu(y, name="t"))
    if also:
        outputs.append(h if also == "output" else b.silu(h, name="also"))
    steps = [f"fuse-{name}" for name in ("stack", "prologue", "chain", "epilogue")]
    graph = through(b.build(*outputs), TAKING, "split-products") if split else b.build(*outputs)
    return through(graph, ANY, *steps)


def reasons(graph, target=HOPPER):
    graph = through(graph, target, "place-weights")
    return reasons_of(ProjectRows(), graph, target)


# --- what it makes -------------------------------------------------------------------------------


def test_the_product_moves_into_its_vectors_kernel():
    graph, hits, refused = ProjectRows().run(network(), HOPPER)
    assert (hits, refused) == (1, ())
    made, total = graph.nodes[:2]
    assert (made.kind, made.name) == ("norm_matvec_silu_mul_parts", "%z.parts")
    assert [v.name for v in made.inputs] == ["%x", "@n", "@gate", "@up", "@w"]
    last = made.body[-1]
    assert (last.op, last["block"], last["lanes"], last["branch"]) == ("matvec_parts", 32, 32, 8)
    assert made.outputs[0].shape == (1, 64)  # six blocks of 32 are one part of eight lanes
    assert (total.op, total.name) == ("add_parts", "%z")
    assert [v.name for v in total.inputs] == ["%z.parts", "%x"]
    assert analyse(made.region).parts is last


def test_without_a_residual_the_parts_are_the_sum():
    graph = ProjectRows().run(network(residual="", ffn=640), HOPPER)[0]
    total = graph.producers["%4"] if "%4" in graph.producers else graph.nodes[1]
    assert (total.op, total["parts"]) == ("sum_parts", 3)


def test_what_the_prologue_keeps_is_kept():
    """A sum that the norm in front reads, and somebody behind as well."""
    graph = block_graph(**BLOCKS["gemma"], matrix="iq4_nl")
    final = run_passes(graph, passes_of(3, disable=["prologue-of-parts"]), HOPPER)[-1].graph
    makers = [node for node in final.nodes if node.ops[-1].op == "matvec_parts"]
    assert makers and all(len(node.outputs) == 2 for node in makers)


def test_a_sum_in_order_stays():
    assert reasons(network(split=False)) == (
        0, ["another sum: rows of %5 have one order, not parts of 8"],
    )  # fmt: skip


@pytest.mark.parametrize("residual", ["x", "other"])
def test_its_meaning_stays(residual):
    graph = network(up="f32", down="f32", ffn=640, residual=residual)
    after, hits, _ = ProjectRows().run(graph, FLOATS)
    assert hits == 1
    assert OPS["matvec_parts"].role == "parts"
    given = {v.name[1:]: RANDOM.normal(size=v.shape) for v in graph.inputs}
    weights = weights_for(graph)
    one, other = (Reference(g, weights).step(**given) for g in (graph, after))
    assert all(np.allclose(one[name], other[name], rtol=1e-12, atol=0) for name in one)


@pytest.mark.xdist_group("30 layers")
def test_a_layer_is_three_launches():
    for target, forward in ((HOPPER, 91), (AMPERE, 151)):
        assert thirty_layers(3, target).dispatches["forward"] == forward


def test_a_model_keeps_its_meaning():
    graph = llama_graph(types=Types("f32"), context=300, heads=2, kv_heads=1)
    stages = run_passes(graph, passes_of(3, disable=["add-in-l2"]), FLOATS)
    kinds = [node.kind for node in stages[-1].graph.nodes]
    assert kinds.count("attention_project") == 2
    assert kinds.count("sum_norm_matvec_silu_mul_parts") == 2
    assert "norm_matvec_silu_mul" not in kinds and "add_parts" not in kinds
    assert distance(stages[0], stages[-1]) < 1e-12


@pytest.mark.parametrize(
    ("columns", "branch", "parts"), [(96, 8, 1), (1024, 8, 4), (1536, 4, 8), (2560, 2, 16)]
)
def test_a_part_has_no_more_blocks_than_a_cluster(columns, branch, parts):
    weight = Builder("g").weight("w", (64, columns))
    assert rows_branch(weight, SUMS) == branch
    assert parts_of(columns, 32, 32, branch) == parts
    assert -(-columns // 1024) * branch <= SUMS.cluster


def test_parts_add_up_to_the_product():
    x, w = RANDOM.normal(size=(2, 1500)), RANDOM.normal(size=(7, 1500))
    sizes = {"block": 32, "lanes": 32, "branch": 4}
    parts = OPS["matvec_parts"].reference(x, w, **sizes).reshape(2, -1, 7)
    assert parts.shape[1] == parts_of(1500, 32, 32, 4) == 8
    assert np.allclose(parts.sum(1), x @ w.T)
    own = [c for c in range(1500) if c // 32 % 32 // 4 == 5]
    assert np.allclose(parts[:, 5], x[:, own] @ w[:, own].T)


# --- what it leaves alone ------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ANY, AMPERE], ids=lambda t: t.name)
def test_a_target_without_clusters(target):
    reason = f"no clusters of thread blocks on {target.name}"
    assert reasons(network(), target) == (0, [reason])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"also": "silu"}, "a second user: %h is also read by %also"),
        ({"also": "output"}, "a second user: %h is an output of the graph"),
        ({"taken": "z.parts"}, "a name is taken: %z.parts"),
        ({"factor": True}, "a factor of the whole matrix: @w has one"),
        ({"down": "f16"}, "no blocks of 32: @w is f16"),
        ({"up": "f16"}, "no blocks of 32: @gate is f16"),
        ({"width": 1024, "ffn": 2048, "down": "q4_0"}, "in tiles of rows: @w"),
        ({"ffn": 9248}, "too long a row: 9248 elements for 32 lanes and 8 blocks of 32"),
        ({"width": 96, "ffn": 2560}, "too many parts: 16, expected at most 8"),
        ({"width": 1056}, "too many weights: 4096 and 1056 blocks for a thread block, which holds "
         "2048"),
        ({"reader": ""}, "nobody to add the parts up: expected a product with a norm in its "
         "prologue to read %z"),
    ],
    ids=str,
)  # fmt: skip
def test_a_reason_to_leave_it(change, reason):
    assert reasons(network(**change)) == (0, [reason])


# --- the op --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((20, 32), {}, r"expected w: \[rows, 64\], found f32\[20, 32\]"),
        ((20, 64), {"branch": 3}, "expected lanes in whole branches"),
        ((20, 64), {"block": 0}, "blocks of at least one"),
    ],
)
def test_operands(shape, change, message):
    b = Builder("g")
    given = {"block": 32, "lanes": 32, "branch": 4} | change
    with pytest.raises(FusecError, match=message):
        b.matvec_parts(b.input("x", (1, 64)), b.weight("w", shape), **given)


def one_region(vector="rows", also=False):
    """What `analyse` has to split: the parts of a product by a vector made in different ways."""
    b = Builder("g")
    x = b.input("x", (1, 64))
    h, outputs = x, []
    if vector == "norm":
        h = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5, name="h")
    elif vector != "input":
        h = b.matvec(x, b.weight("u", (64, 64)), name="h")
    if vector == "side":
        outputs.append(b.silu(x, name="side"))
    if also:
        outputs.append(h)
    y = b.matvec_parts(h, b.weight("w", (8, 64)), block=32, lanes=32, branch=8, name="y")
    return b.build(y, *outputs)


def two_products():
    """A vector that is multiplied by two matrices."""
    b = Builder("g")
    h = b.matvec(b.input("x", (1, 64)), b.weight("u", (64, 64)), name="h")
    sizes = {"block": 32, "lanes": 32, "branch": 8}
    return b.build(*(b.matvec_parts(h, b.weight(n, (8, 64)), name=n, **sizes) for n in "yz"))


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (two_products(), "two products in parts: %y and %z"),
        (one_region("input"), "matvec_parts %y needs one segment of rows, not rotated"),
        (one_region("norm"), "matvec_parts %y needs one segment of rows, not rotated"),
        (one_region("side"), "matvec_parts %y needs one segment of rows, not rotated"),
        (one_region(also=True), "matvec_parts %y has to be the only reader of %h"),
    ],
    ids=["two", "input", "norm", "side", "output"],
)
def test_what_is_not_one_kernel(region, reason):
    assert analyse(one_region()).parts is not None
    with pytest.raises(NotOneKernel, match=reason):
        analyse(region)
