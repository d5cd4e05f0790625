"""The output projection among the heads: what the pass makes, what it keeps, what it leaves."""

from dataclasses import replace

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.ops import OPS
from fusec.passes.fuse import Fuse
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.project_heads import ProjectHeads
from fusec.passes.rules import prologue
from tests.graphs import Types, llama_graph, weights_for
from tests.passes.stages import distance, reasons_of, thirty_layers, through
from tests.random_numbers import random_numbers
from tests.targets import AMPERE, ANY, HOPPER

RANDOM = random_numbers(4)
SUMS = HOPPER.column_sums
FLOATS = replace(HOPPER, column_sums=replace(SUMS, formats=frozenset({"f32"})))
"""The pass does not care what a format is, and the reference reads floats."""


def block(
    heads=2, head_dim=32, rows=64, matrix="iq4_nl", context=600, residual="x", reader="norm",
    also="", taken="", factor=False, source="spans", split=True,
):  # fmt: skip
    """Attention split already, its projection with a residual, and who reads the sum."""
    b, n = Builder("g"), heads * head_dim
    q, pos, x = b.input("q", (1, n)), b.input("pos", (1,), "i32"), b.input("x", (1, rows))
    if taken:
        b.input(taken, (1, 1))
    k, v = (b.state(name, (context, 1, head_dim), "f16") for name in "kv")
    sizes = {"heads": heads, "span": 256, "spans": -(-context // 256)}
    given = [
        b.input(f"given{i}", (1, sizes["spans"] * each)) for i, each in ((0, n), (1, 2 * heads))
    ]
    spans, sums = b.attention_spans(q, k, v, pos, kv_heads=1, scale=0.2, name="s", **sizes)
    values = {"": given, "spans": (spans, sums), "other sums": (spans, given[1])}[source]
    a = b.attention_combine(*values, pos, name="a", **sizes)
    w = b.weight("w", (rows, n), matrix)
    y = b.matvec(a, w, *([b.weight("f", (1,))] if factor else []), name="y")
    others = {"x": x, "weight": b.weight("r", (rows,)), "itself": y, "attention": a}
    outputs = []
    if residual:
        y = b.add(y, others[residual], name="z")
    if reader == "norm":
        norm, inverse = b.rms_factors(y, b.weight("g", (rows,)), eps=1e-5)
        outputs.append(b.matvec(norm, b.weight("u", (8, rows)), inverse, name="h"))
    else:
        outputs.append(y)
    outputs.append(b.silu(y, name="t"))
    for name, value in {"spans": spans, "sums": sums, "a": a}.items():
        if name in also.split():
            outputs.append(value if "output" in also else b.silu(value, name="other"))
    graph = _split(b.build(*outputs), heads) if split else b.build(*outputs)
    graph = through(graph, ANY, "fuse-epilogue")
    return Fuse(prologue("norms", "rms_factors")).run(graph, ANY)[0]


def _split(graph, heads):
    """The graph as `split-products` leaves it, which sees attention whole: %y in parts by heads."""

    def split(node):
        branch = node.inputs[1].shape[1] // heads // 32
        return replace(node, op="split_matvec", attrs=(("branch", branch),))

    wanted = {"%y"} & {n.name for n in graph.nodes if len(n.inputs) == 2 and fits(n, heads)}
    return graph.replace_nodes(split(n) if n.name in wanted else n for n in graph.nodes)


def fits(node, heads):
    """Whether a head has whole blocks, a power of two that divides a warp's lanes."""
    branch, rest = divmod(node.inputs[-1].shape[-1], 32 * heads)
    return not rest and branch > 0 and 32 % branch == 0


def reasons(graph, target=HOPPER):
    return reasons_of(ProjectHeads(), graph, target)


# --- what it makes -------------------------------------------------------------------------------


def test_three_nodes_become_two():
    graph, hits, refused = ProjectHeads().run(block(), HOPPER)
    assert (hits, refused) == (1, ())
    attention, total = graph.nodes[:2]
    assert (attention.op, attention.name) == ("attention_project", "%z.parts")
    assert [v.name for v in attention.inputs] == ["%q", "$k", "$v", "%pos", "@w"]
    assert attention.outputs[0].shape == (1, 2 * 64)
    assert (attention["span"], attention["spans"]) == (256, 3)
    assert (total.op, total.name) == ("add_parts", "%z")
    assert [v.name for v in total.inputs] == ["%z.parts", "%x"]


def test_without_a_residual_the_parts_are_the_sum():
    graph, hits, _ = ProjectHeads().run(block(residual=""), HOPPER)
    total = graph.nodes[1]
    assert (hits, total.op, total.name, total["parts"]) == (1, "sum_parts", "%y", 2)
    assert [v.name for v in total.inputs] == ["%y.parts"]


def test_what_is_done_with_the_sum_stays_behind_it():
    """A bias and a factor in front of the residual: the sum of the parts, and then they."""
    b = Builder("granite")
    q, pos, x = b.input("q", (1, 64)), b.input("pos", (1,), "i32"), b.input("x", (1, 64))
    k, v = (b.state(name, (600, 1, 32), "f32") for name in "kv")
    a = b.attention(q, k, v, pos, heads=2, kv_heads=1, scale=0.2)
    y = b.matvec(a, b.weight("w", (64, 64), "f32"), name="y")
    y = b.scale(b.add(y, b.weight("bias", (64,))), factor=0.3)
    y = b.add(x, y, name="z")
    n = b.rms_norm(y, b.weight("g", (64,)), eps=1e-5)
    stages = run_passes(b.build(b.matvec(n, b.weight("u", (8, 64))), y), passes_of(3), FLOATS)
    final = stages[-1].graph
    assert [node.kind for node in final.nodes] == [
        "attention_project", "sum_add_scale_norm_matvec",
    ]  # fmt: skip
    given = {"q": (1, 64), "x": (1, 64)}
    step = {name: RANDOM.normal(size=shape) for name, shape in given.items()}
    weights, found = weights_for(stages[0].graph), []
    for stage in (stages[0], stages[-1]):
        reference = Reference(stage.graph, weights)
        for state in reference.states.values():
            state[:] = np.linspace(-1, 1, state.size).reshape(state.shape)
        found.append(reference.step(**step, pos=np.array([300]))["z"])
    assert np.abs(found[0] - found[1]).max() < 1e-12


def test_a_head_of_many_columns_has_more_blocks_than_spans():
    """Three spans; 1,024 columns a block, and at most as many blocks as a cluster has."""
    for rows, blocks in ((3072, 3), (3076, 4), (8192, 8), (16384, 8)):
        attention = ProjectHeads().run(block(rows=rows), HOPPER)[0].nodes[0]
        assert attention["spans"] == blocks


@pytest.mark.xdist_group("30 layers")
def test_a_layer_is_a_launch_less():
    for target, forward in ((HOPPER, 121), (AMPERE, 151)):
        plan = thirty_layers(3, target, "project-rows")
        assert plan.dispatches["forward"] == forward


def test_a_model_keeps_its_meaning():
    graph = llama_graph(types=Types("f32"), context=300, heads=2, kv_heads=1)
    stages = run_passes(graph, passes_of(3, disable=["project-rows", "add-in-l2"]), FLOATS)
    kinds = [node.kind for node in stages[-1].graph.nodes]
    assert kinds.count("attention_project") == kinds.count("sum_norm_matvec_silu_mul") == 2
    assert distance(stages[0], stages[-1]) < 1e-12


def test_a_sum_in_order_stays():
    assert reasons(block(split=False)) == (
        0, ["another sum: rows of %y have one order, not parts of 1"],
    )  # fmt: skip


def test_the_parts_are_written_where_nobody_takes_them_in():
    graph = llama_graph(layers=1, heads=2, kv_heads=1)
    rules = ["prologue-of-parts", "project-rows", "add-in-l2"]
    kinds = {n.kind for n in run_passes(graph, passes_of(3, disable=rules), HOPPER)[-1].graph.nodes}
    assert {"attention_project", "add_parts", "norm_matvec_silu_mul"} <= kinds


# --- what it leaves alone ------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ANY, AMPERE], ids=lambda t: t.name)
def test_a_target_without_clusters(target):
    assert reasons(block(), target) == (
        0, [f"no partial sums by heads: {target.name} has no clusters of thread blocks"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": ""}, "no attention: %given0 is not made by attention_spans"),
        ({"source": "other sums"}, "no attention: %s is not made by attention_spans"),
        ({"also": "spans"}, "a second user: %s is also read by %other"),
        ({"also": "a"}, "a second user: %a is also read by %other"),
        ({"also": "sums"}, "a second user: %s.sums is also read by %other"),
        ({"also": "spans output"}, "a second user: %s is an output of the graph"),
        ({"also": "sums output"}, "a second user: %s.sums is an output of the graph"),
        ({"also": "a output"}, "a second user: %a is an output of the graph"),
        ({"residual": "attention"}, "a second user: %a is also added to %z"),
        ({"taken": "z.parts"}, "a name is taken: %z.parts"),
        ({"factor": True}, "a factor of the whole matrix: @w has one"),
        ({"matrix": "f16"}, "no blocks of 32: @w is f16"),
        ({"context": 2049}, "too many spans: 9, of which 8 can exchange"),
        ({"head_dim": 16}, "no branch of a sum: heads of 16, expected 32 times a power of 2"),
        ({"head_dim": 96}, "no branch of a sum: heads of 96, expected 32 times a power of 2"),
        ({"heads": 33}, "too long a row: 33 blocks for 32 lanes"),
        ({"rows": 66}, "not whole quads: @w has 66 rows"),
        (
            {"rows": 16388},
            "too many weights: 16388 blocks for a head, whose thread blocks hold 16384",
        ),
        (
            {"reader": ""},
            "nobody to add the parts up: expected a product with a norm in its prologue to read %z",
        ),
    ],
    ids=str,
)
def test_a_reason_to_leave_it(change, reason):
    assert reasons(block(**change)) == (0, [reason])


@pytest.mark.parametrize(
    "change",
    [
        {"context": 2048},
        {"head_dim": 128},
        {"heads": 32},
        {"rows": 16384},
        {"residual": ""},
        {"residual": "weight"},
        {"residual": "itself"},
        {"rows": 68},
        {"matrix": "q4_0"},
    ],
    ids=str,
)
def test_right_at_the_edge_it_applies(change):
    assert reasons(block(**change)) == (1, [])


# --- the ops -------------------------------------------------------------------------------------


def test_the_parts_and_the_residual_are_the_projection():
    q = RANDOM.standard_normal((3, 32))
    k, v = RANDOM.standard_normal((2, 70, 2, 8))
    w, x = RANDOM.standard_normal((20, 32)), RANDOM.standard_normal((3, 20))
    pos = np.array([0, 31, 65])
    given = {"heads": 4, "kv_heads": 2, "scale": 0.7}
    wanted = x + OPS["attention"].reference(q, k, v, pos, **given) @ w.T
    parts = OPS["attention_project"].reference(q, k, v, pos, w, span=32, spans=3, **given)
    assert parts.shape == (3, 4 * 20)
    assert np.abs(OPS["add_parts"].reference(parts, x) - wanted).max() < 1e-12


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((20, 64), {}, r"expected w: \[rows, 32\], found f32\[20, 64\]"),
        ((20, 32), {"spans": 2}, "spans that hold 600 positions, found 2"),
        ((20, 32), {"heads": 3}, "heads a multiple of kv_heads, found 3 and 2"),
    ],
)
def test_operands_of_the_projection(shape, change, message):
    b = Builder("g")
    q, pos = b.input("q", (1, 32)), b.input("pos", (1,), "i32")
    k, v = (b.state(x, (600, 2, 8), "f16") for x in "kv")
    given = {"heads": 4, "kv_heads": 2, "scale": 1.0, "span": 256, "spans": 3} | change
    with pytest.raises(FusecError, match=message):
        b.attention_project(q, k, v, pos, b.weight("w", shape), **given)


def test_parts_must_be_whole_vectors():
    b = Builder("g")
    with pytest.raises(FusecError, match=r"expected parts: f32\[1, parts \* 8\], found f32\[1, 20"):
        b.add_parts(b.input("parts", (1, 20)), b.input("x", (1, 8)))
