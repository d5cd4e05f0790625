"""The op table: an entry with a hole is none, and every entry has what the rest asks for."""

from dataclasses import replace

import numpy as np
import pytest

from fusec.driver import compile
from fusec.errors import FusecError
from fusec.ir import Builder, Reference, parse
from fusec.ir.op import LOCAL, ROLES, bound_by_positions, results_of
from fusec.ir.op_fixed import WIDTHS
from fusec.ir.op_matvec import is_fixed
from fusec.ir.ops import FAMILIES, OPS, flops, kind_of, make, op, role_of
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import BLOCKS, block_graph, llama_graph
from tests.random_numbers import random_numbers
from tests.targets import ANY, HOPPER

RANDOM = random_numbers(6)


@pytest.mark.parametrize(
    ("name", "change", "hole"),
    [
        ("silu", {"operands": ""}, "operands"),
        ("silu", {"expression": None}, "an expression"),
        ("rms_norm", {"work_whole": None}, "work_whole"),
        ("silu", {"outputs": ()}, "outputs"),
        ("rope", {"indices": {}}, "indices of the i32 among x: f32"),
        ("embed", {"indices": {1: bound_by_positions}}, "indices of the i32 among token: i32"),
        ("silu", {"indices": {0: None}}, "indices of the i32 among x: f32"),
        ("argmax_combine", {"indices": {}}, "indices of the i32 among best: f32"),
        ("matvec", {"arity": (2, 3)}, "an arity up to 4 operands"),
    ],
)
def test_an_entry_with_a_hole_cannot_be_made(name, change, hole):
    assert replace(OPS[name]) == OPS[name]
    with pytest.raises(TypeError, match=f"op table entry '{name}' is incomplete: it lacks {hole}"):
        replace(OPS[name], **change)


def test_every_op_is_in_one_family_under_its_name():
    names = [entry.name for family in FAMILIES for entry in family.OPS]
    assert sorted(names) == sorted(OPS) == sorted(set(names))
    assert {entry.role for entry in OPS.values()} == set(ROLES)
    assert set(ROLES) > LOCAL


def test_every_whole_number_that_indexes_memory_has_a_bound():
    """All but the places of a maximum, which are compared and handed on."""
    free = {
        (name, place)
        for name, entry in OPS.items()
        for place, bound in entry.indices.items()
        if bound is None
    }
    assert free == {("argmax_combine", 1)}


def test_bounds_are_those_of_what_is_read():
    graph = run_passes(llama_graph(vocab=70, context=600), passes_of(3), HOPPER)[-1].graph
    bounds = {
        node.op: [bound(node) for bound in op(node.op).indices.values() if bound]
        for node in graph.walk()
    }
    assert bounds["embed"] == [70]
    assert bounds["rope"] == bounds["kv_append"] == [None]  # as many as the states have rows
    assert bounds["attention_combine"] == [768]
    assert bounds["argmax_combine"] == bounds["rms_factors"] == []


def test_operands_are_checked_against_what_the_entry_says():
    for name, entry in OPS.items():
        few = tuple(Builder("g").input(f"x{i}", (1, 8)) for i in range(entry.arity[0] - 1))
        with pytest.raises(FusecError) as error:
            make(name, few, "%y")
        assert f"expected operands ({entry.operands})" in str(error.value)
    with pytest.raises(FusecError, match="unknown op 'relu': did you mean 'gelu'"):
        op("relu")


def test_the_results_of_an_op_are_named_after_the_first():
    b = Builder("g")
    gained, inverse = b.rms_factors(b.input("x", (2, 8)), b.weight("g", (8,)), eps=0.1, name="n")
    assert (gained.name, inverse.name) == ("%n", "%n.inverse")
    graph = b.build(gained, inverse)
    found = Reference(graph, {"g": np.ones(8)}).step(x=np.full((2, 8), 3.0))
    assert set(found) == {"n", "n.inverse"}
    assert found["n.inverse"] == pytest.approx(np.full((2, 1), 1 / np.sqrt(9.1)))
    with pytest.raises(FusecError, match=r"%n\.inverse is defined twice"):
        b.silu(gained, name="n.inverse")
    one = np.zeros(2)
    assert results_of(one) == (one,)


@pytest.mark.parametrize("name", BLOCKS)
def test_kinds_are_made_of_what_nodes_hold(name):
    """Each op once, in order, so that no node is called what an op is unless it holds only it."""
    for level in range(4):
        for node in run_passes(block_graph(**BLOCKS[name]), passes_of(level), ANY)[-1].graph.nodes:
            if node.op == "fused":
                assert node.kind == kind_of(node.body)
                parts = dict.fromkeys(op(n.op).short for n in node.body)
                assert node.kind == "_".join(parts)
                assert role_of(node) in {op(n.op).role for n in node.body}
                assert flops(node) == sum(map(flops, node.body))


# --- the norm of heads ---------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [6, 8, 64, 80])
def test_each_head_is_normed_alone(head_dim):
    x, gain = RANDOM.normal(size=(3, 4 * head_dim)), RANDOM.normal(size=head_dim)
    found = OPS["head_norm"].reference(x, gain, eps=0.1, head_dim=head_dim)
    for t in range(3):
        for h in range(4):
            head = x[t, h * head_dim : (h + 1) * head_dim]
            wanted = head / np.sqrt((head**2).mean() + 0.1) * gain
            assert found[t, h * head_dim : (h + 1) * head_dim] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("n", "weight", "head_dim", "message"),
    [
        (32, 8, 0, "expected whole heads of 0"),
        (32, 8, -8, "expected whole heads of -8"),
        (36, 8, 8, r"expected whole heads of 8, found f32\[1, 36\]"),
        (32, 16, 8, r"expected w: f32\[8\] or f32\[32\], found f32\[16\]"),
        (32, 4, 8, r"expected w: f32\[8\] or f32\[32\], found f32\[4\]"),
    ],
)
@pytest.mark.parametrize("norm", ["head_norm", "head_layer_norm"])
def test_heads_that_do_not_fit(norm, n, weight, head_dim, message):
    b = Builder("g")
    with pytest.raises(FusecError, match=f"{norm} making %0: {message}"):
        b.op(norm, b.input("x", (1, n)), b.weight("g", (weight,)), eps=1e-5, head_dim=head_dim)


# --- LayerNorm -----------------------------------------------------------------------------------


def test_layer_norm_takes_the_mean_away_and_adds_a_bias():
    x, gain, bias = (RANDOM.normal(size=shape) for shape in ((3, 96), 96, 96))
    found = OPS["layer_norm"].reference(x + 5, gain, bias, eps=0.1)
    for t in range(3):
        wanted = (x[t] - x[t].mean()) / np.sqrt(x[t].var() + 0.1) * gain + bias
        assert found[t] == pytest.approx(wanted)


def test_heads_may_have_weights_of_their_own():
    x, gain = RANDOM.normal(size=(3, 32)), RANDOM.normal(size=32)
    for norm in ("head_norm", "head_layer_norm"):
        found = OPS[norm].reference(x, gain, eps=0.1, head_dim=8)
        for h in range(4):
            own = slice(8 * h, 8 * h + 8)
            alone = OPS[norm].reference(x[:, own], gain[own], eps=0.1, head_dim=8)
            assert found[:, own] == pytest.approx(alone)


@pytest.mark.parametrize(
    ("gain", "bias", "message"),
    [(8, 32, r"expected w: f32\[32\], found"), (32, 8, r"expected bias: f32\[32\], found")],
)
def test_layer_norm_wants_weights_of_its_vector(gain, bias, message):
    b = Builder("g")
    weights = b.weight("g", (gain,)), b.weight("h", (bias,))
    with pytest.raises(FusecError, match=message):
        b.layer_norm(b.input("x", (1, 32)), *weights, eps=1e-5)


def test_relu_squared():
    x = np.array([-3.0, -0.0, 0.0, 2.0, np.inf, np.nan])
    wanted = [0, 0, 0, 4, np.inf, np.nan]
    assert np.array_equal(OPS["relu_squared"].reference(x), wanted, equal_nan=True)


# --- vectors in fixed point ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", WIDTHS)
def test_fixed_point_is_the_same_vector_in_another_type(kind):
    b = Builder("g")
    x = b.input("x", (12, 64))
    made = b.fix(x, kind=kind, name="f")
    assert made.type == f"{kind}[12, 64]"
    y = b.matvec(made, b.weight("w", (32, 64), "q4_0"), name="y")
    assert y.type == "f32[12, 32]"
    graph = b.build(y)
    assert [is_fixed(node) for node in graph.nodes] == [False, True]
    assert parse(str(graph)) == graph
    given, w = RANDOM.normal(size=(12, 64)), RANDOM.normal(size=(32, 64))
    assert Reference(graph, {"w": w}).step(x=given)["y"] == pytest.approx(given @ w.T)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "message"),
    [
        ((2, 64), "f32", "fixed9", "expected kind: fixed24 or fixed23, found fixed9"),
        ((2, 48), "f32", "fixed24", r"whole blocks of 32 elements, found f32\[2, 48\]"),
        ((64,), "f32", "fixed24", r"expected x: f32\[T, n\], found f32\[64\]"),
        ((2, 64), "i32", "fixed24", r"expected x: f32\[T, n\], found i32\[2, 64\]"),
    ],
)
def test_vectors_that_have_no_fixed_point(shape, dtype, kind, message):
    b = Builder("g")
    with pytest.raises(FusecError, match=f"fix making %f: .*{message}"):
        b.fix(b.input("x", shape, dtype), kind=kind, name="f")


def test_only_products_take_fixed_point():
    b = Builder("g")
    made = b.fix(b.input("x", (2, 64)), kind="fixed24", name="f")
    for make_it in (b.silu, lambda x: b.fix(x, kind="fixed24"), lambda x: b.add(x, x)):
        with pytest.raises(FusecError, match=r"found \(?fixed24\[2, 64\]"):
            make_it(made)


def test_the_cpu_has_no_fixed_point():
    b = Builder("g")
    graph = b.build(b.fix(b.input("x", (2, 64)), kind="fixed24", name="f"))
    with pytest.raises(FusecError, match="fix making %1: the CPU target has no kernel for it"):
        assert compile(graph).kernels


def given_fixed_point(tokens):
    b = Builder("g")
    made = b.fix(b.input("x", (tokens, 64)), kind="fixed24", name="f")
    return b.build(b.matvec(made, b.weight("w", (32, 64), "q4_0")))


def test_a_product_that_was_given_fixed_point_keeps_it():
    compiled = compile(given_fixed_point(64), target="sm_90a")
    assert [node.kind for node in compiled.graph.nodes] == ["fix", "matvec"]
    assert {kernel.rows for kernel in compiled.kernels.values()} == {1, 8}


def test_one_row_has_no_product_in_fixed_point():
    with pytest.raises(FusecError, match="expected a step of several rows for a product"):
        compile(given_fixed_point(1), target="sm_90a")
