"""Attention split over the context: what the pass makes, what it keeps, what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.ops import OPS
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.split_attention import SplitAttention
from tests.graphs import Types, llama_graph, weights_for
from tests.passes.stages import distance, reasons_of
from tests.random_numbers import random_numbers
from tests.targets import ANY, SPLIT

RANDOM = random_numbers(2)


def attention(name="a", tokens=1, context=600, taken="a.spans"):
    b = Builder("g")
    q, pos = b.input("q", (tokens, 32)), b.input("pos", (tokens,), "i32")
    taken = b.input(taken, (tokens, 32))
    k, v = (b.state(x, (context, 2, 8), "f32") for x in "kv")
    a = b.attention(q, k, v, pos, heads=4, kv_heads=2, scale=0.3, name=name)
    return b.build(b.add(a, taken, name="sum"))


def reasons(graph, target=SPLIT):
    return reasons_of(SplitAttention(), graph, target)


def test_one_attention_becomes_two_nodes():
    graph, hits, refused = SplitAttention().run(attention("b"), SPLIT)
    assert (hits, refused) == (1, ())
    spans, combine, _ = graph.nodes
    assert spans.op == "attention_spans"
    assert [(v.name, v.type) for v in spans.outputs] == [
        ("%b.spans", f"f32[1, {3 * 32}]"), ("%b.spans.sums", f"f32[1, {3 * 2 * 4}]"),
    ]  # fmt: skip
    assert (combine.op, combine.name) == ("attention_combine", "%b")
    assert combine.inputs == (*spans.outputs, spans.inputs[3])
    assert (spans["span"], spans["spans"], combine["spans"]) == (256, 3, 3)


def test_a_target_without_spans():
    assert reasons(attention("b"), ANY) == (0, ["no spans: any gives a head to one block"])


def test_many_rows_a_step():
    many = replace(SPLIT, fixed_from=3)
    assert reasons(attention("b", tokens=2), many) == (1, [])
    found = reasons(attention("b", tokens=3), many)
    assert found == (0, ["many rows: the heads of 3 rows are enough blocks"])
    assert reasons(attention("b", tokens=3)) == (1, [])  # a target that has no such steps


def test_a_name_that_is_taken():
    assert reasons(attention("a")) == (0, ["a name is taken: %a.spans"])
    found = reasons(attention("a", taken="a.spans.sums"))
    assert found == (0, ["a name is taken: %a.spans.sums"])


def test_the_reference_of_both_parts_is_that_of_the_whole():
    q = 3 * RANDOM.standard_normal((3, 32))
    k, v = RANDOM.standard_normal((2, 70, 2, 8))
    pos = np.array([0, 31, 65])
    given = {"heads": 4, "kv_heads": 2, "scale": 0.7}
    wanted = OPS["attention"].reference(q, k, v, pos, **given)
    sizes = {"span": 32, "spans": 4}
    values, sums = OPS["attention_spans"].reference(q, k, v, pos, **given, **sizes)
    assert (values.shape, sums.shape) == ((3, 4 * 32), (3, 4 * 2 * 4))
    found = OPS["attention_combine"].reference(values, sums, pos, heads=4, **sizes)
    assert np.abs(found - wanted).max() < 1e-12


def test_a_model_keeps_its_meaning_and_its_dispatches():
    graph = llama_graph(types=Types("f32"), context=300)
    stages = run_passes(graph, passes_of(3), SPLIT)
    kinds = [node.kind for node in stages[-1].graph.nodes]
    assert kinds.count("attention_spans") == kinds.count("combine_matvec_add") == 2
    assert not {"attention", "attention_combine"} & set(kinds)
    assert distance(stages[0], stages[-1]) < 1e-12


def test_the_combination_can_be_left_on_its_own_and_the_split_left_out():
    graph = llama_graph(layers=1)
    alone = run_passes(graph, passes_of(3, disable=["prologue-of-parts"]), SPLIT)[-1].graph
    assert {"attention_spans", "attention_combine"} <= {n.kind for n in alone.nodes}
    whole = run_passes(graph, passes_of(3, disable=["split-attention"]), SPLIT)[-1].graph
    assert "attention" in {n.kind for n in whole.nodes}


def test_a_second_reader_of_the_attention_gets_it_from_the_kernel_of_the_matvec():
    b = Builder("g")
    q, pos = b.input("q", (1, 32)), b.input("pos", (1,), "i32")
    k, v = (b.state(x, (300, 2, 8), "f32") for x in "kv")
    a = b.attention(q, k, v, pos, heads=4, kv_heads=2, scale=0.3, name="a")
    graph = b.build(b.matvec(a, b.weight("w", (32, 32)), name="o"), b.silu(a, name="s"))
    final = run_passes(graph, passes_of(3), SPLIT)[-1].graph
    assert [n.kind for n in final.nodes] == ["attention_spans", "combine_matvec", "silu"]
    assert [v.name for v in final.nodes[1].outputs] == ["%a", "%o"]
    weights, given = weights_for(graph), {"q": RANDOM.normal(size=(1, 32)), "pos": np.array([280])}
    caches = {s.name: RANDOM.normal(size=s.shape) for s in graph.states}
    results = []
    for stage in (graph, final):
        reference = Reference(stage, weights)
        reference.states |= caches
        results.append(reference.step(**given))
    assert np.abs(results[0]["o"] - results[1]["o"]).max() < 1e-12
    assert np.abs(results[0]["s"] - results[1]["s"]).max() < 1e-12


@pytest.mark.parametrize("position", [0, 39, 255, 256, 290, 580])
@pytest.mark.parametrize("window", [1, 40, 300])
def test_spans_of_a_window_mean_what_attention_means(window: int, position: int) -> None:
    """And so with a cap of scores, and sinks."""
    b = Builder("g")
    q, pos = b.input("q", (1, 32)), b.input("pos", (1,), "i32")
    k, v = (b.state(name, (600, 2, 8), "f32") for name in "kv")
    sinks = b.weight("sinks", (4,))
    given = {"heads": 4, "kv_heads": 2, "scale": 0.3, "window": window, "cap": 2.0}
    whole = b.build(b.attention(q, k, v, pos, sinks, name="a", **given))
    apart = SplitAttention().run(whole, SPLIT)[0]
    assert len(apart.nodes) == 2
    caches = {s.name: RANDOM.normal(size=s.shape) for s in whole.states}
    step = {"q": RANDOM.normal(size=(1, 32)), "pos": np.array([position])}
    found = []
    for graph in (whole, apart):
        reference = Reference(graph, {"sinks": np.array([0.5, -1.0, 2.0, 0.0])})
        reference.states |= caches
        found.append(reference.step(**step)["a"])
    assert np.abs(found[0] - found[1]).max() < 1e-12


@pytest.mark.parametrize(
    ("op", "change", "wanted"),
    [
        ("attention_spans", {"spans": 2}, "spans that hold 600 positions, found 2"),
        ("attention_spans", {"span": 0}, "spans of at least one position, found 3 of 0"),
        ("attention_spans", {"spans": 1, "window": 3}, "spans that hold 3 positions, found 1"),
        ("attention_combine", {"spans": 7}, "7 spans of 4 heads"),
        ("attention_combine", {"span": 0}, "at least one head, span and position"),
        ("attention_combine", {"heads": 8}, r"sums: f32\[1, 48\], found f32\[1, 24\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(op, change, wanted):
    b = Builder("g")
    q, pos = b.input("q", (1, 32)), b.input("pos", (1,), "i32")
    k, v = (b.state(x, (600, 2, 8), "f16") for x in "kv")
    sizes = {"heads": 4, "span": 256, "spans": 3}
    with pytest.raises(FusecError, match=wanted):
        if op == "attention_spans":
            b.attention_spans(q, k, v, pos, kv_heads=2, scale=1.0, **(sizes | change))
        else:
            values, sums = b.input("p", (1, 96)), b.input("sums", (1, 24))
            b.attention_combine(values, sums, pos, **(sizes | change))
