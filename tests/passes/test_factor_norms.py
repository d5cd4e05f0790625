"""Norms kept as two factors: which ones, why the others are not, and that the meaning stays."""

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.ops import OPS
from fusec.passes.factor_norms import FactorNorms
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import Types, llama_graph, weights_for
from tests.random_numbers import random_numbers
from tests.targets import ANY, HOPPER

RANDOM = random_numbers(5)


def normed(readers):
    """A norm %n of an input, and the outputs that `readers` makes of it."""
    b = Builder("g")
    x = b.input("x", (1, 64))
    n = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5, name="n")
    return b.build(*readers(b, x, n))


def product(b, n, name="y"):
    return b.matvec(n, b.weight(f"w_{name}", (32, 64)), name=name)


def outcome(graph, target=HOPPER):
    after, hits, refused = FactorNorms().run(graph, target)
    assert (after == graph) == (hits == 0)
    return hits, [r.reason for r in refused]


def test_a_norm_and_its_products():
    graph = normed(lambda b, _, n: (product(b, n, "y"), product(b, n, "z")))
    after, hits, refused = FactorNorms().run(graph, HOPPER)
    assert (hits, refused) == (1, ())
    assert [node.op for node in after.nodes] == ["rms_factors", "matvec", "matvec"]
    gained, inverse = after.nodes[0].outputs
    assert (gained.name, gained.shape) == ("%n.factors", (1, 64))
    assert (inverse.name, inverse.shape) == ("%n.factors.inverse", (1, 1))
    for node in after.nodes[1:]:
        assert (node.inputs[0], node.inputs[2]) == (gained, inverse)
    assert after.nodes[0]["eps"] == 1e-5


def test_a_norm_of_what_another_norms_products_made():
    b = Builder("g")
    n = b.rms_norm(b.input("x", (1, 64)), b.weight("g", (64,)), eps=1e-5)
    y = b.matvec(n, b.weight("w", (64, 64)))
    m = b.rms_norm(y, b.weight("h", (64,)), eps=1e-5)
    assert outcome(b.build(b.matvec(m, b.weight("v", (8, 64))))) == (2, [])


def test_a_target_that_does_not_want_it():
    assert outcome(normed(lambda b, _, n: (product(b, n),)), ANY) == (0, [])


def test_a_norm_that_is_an_output():
    graph = normed(lambda b, _, n: (product(b, n), n))
    assert outcome(graph) == (0, ["%n is an output of the graph"])


def test_a_second_reader_that_takes_no_factors():
    graph = normed(lambda b, _, n: (product(b, n), b.silu(n, name="s")))
    assert outcome(graph) == (0, ["%n is read by silu %s, which takes no factors"])


def test_a_norm_that_is_the_matrix_of_a_product():
    graph = normed(lambda b, x, n: (b.matvec(x, n, name="y"),))
    assert outcome(graph) == (0, ["%n is read by matvec %y, which takes no factors"])


@pytest.mark.parametrize("name", ["n.factors", "n.factors.inverse"])
@pytest.mark.parametrize("made", [False, True])
def test_a_name_that_is_taken(made, name):
    b = Builder("g")
    x = b.input("x" if made else name, (1, 64))
    n = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5, name="n")
    outputs = [product(b, n)]
    if made:
        outputs.append(b.silu(x, name=name))
    assert outcome(b.build(*outputs)) == (0, [f"a name is taken: %{name}"])


def test_a_product_that_is_scaled_by_another_inverse():
    graph = normed(lambda b, x, n: (b.matvec(n, b.weight("w", (8, 64)), b.input("i", (1, 1)),
                                             name="y"),))  # fmt: skip
    assert outcome(graph) == (0, ["%y is scaled already"])


def test_a_factor_of_the_whole_matrix_stays_where_it_is():
    graph = normed(lambda b, x, n: (b.matvec(n, b.weight("w", (8, 64)), b.weight("f", (1,))),))
    after, hits, _ = FactorNorms().run(graph, HOPPER)
    assert hits == 1
    wanted = ["%n.factors", "@w", "@f", "%n.factors.inverse"]
    assert [v.name for v in after.nodes[1].inputs] == wanted
    weights = weights_for(graph)
    x = RANDOM.standard_normal((1, 64))
    one, other = (Reference(g, weights).step(x=x) for g in (graph, after))
    assert all(np.allclose(one[name], other[name], rtol=1e-12, atol=0) for name in one)


def test_it_runs_at_every_level_and_can_be_left_out():
    for level in LEVELS:
        ops = {n.op for n in run_passes(llama_graph(), passes_of(level), HOPPER)[-1].graph.walk()}
        assert "rms_factors" in ops and "rms_norm" not in ops
        plain = passes_of(level, disable=["factor-norms"])
        ops = {n.op for n in run_passes(llama_graph(), plain, HOPPER)[-1].graph.walk()}
        assert "rms_norm" in ops and "rms_factors" not in ops


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_keeps_its_meaning(level):
    graph = llama_graph(types=Types("f32"))
    stages = run_passes(graph, passes_of(level), HOPPER)
    weights, inputs = weights_for(graph), {"token": np.array([3]), "pos": np.array([0])}
    wanted, found = (
        Reference(s.graph, weights).step(**inputs)["logits"] for s in (stages[0], stages[-1])
    )
    assert np.abs(found - wanted).max() < 1e-12 * np.abs(wanted).max()


def test_the_reference_of_both_parts_is_that_of_the_whole():
    x, gain, w = RANDOM.standard_normal((3, 40)), RANDOM.standard_normal(40), np.eye(40)[:7]
    gained, inverse = OPS["rms_factors"].reference(x, gain, eps=0.1)
    mean = (x * x).mean(-1)
    assert np.allclose(inverse[:, 0], 1 / np.sqrt(mean + 0.1), rtol=1e-14)
    found = OPS["matvec"].reference(gained, w, inverse)
    wanted = (x * gain)[:, :7] / np.sqrt(mean + 0.1)[:, None]
    assert np.abs(found - wanted).max() < 1e-14


@pytest.mark.parametrize("columns", [62, 63, 65])
def test_a_matrix_that_does_not_fit_the_vector(columns):
    b = Builder("g")
    with pytest.raises(FusecError, match=r"w: \[rows, 64\], found f32\[8, "):
        b.matvec(b.input("x", (1, 64)), b.weight("w", (8, columns)))


SCALES = {
    "factor": lambda b: b.weight("f", (1,)),
    "factors": lambda b: b.weight("g", (8,)),
    "a half": lambda b: b.weight("h", (1,), "f16"),
    "inverse": lambda b: b.input("i", (2, 1)),
    "inverse too": lambda b: b.input("j", (2, 1)),
    "another T": lambda b: b.input("k", (1, 1)),
    "vector": lambda b: b.input("v", (2, 8)),
}


@pytest.mark.parametrize("scales", [[], ["factor"], ["inverse"], ["factor", "inverse"]], ids=str)
def test_what_may_scale_a_product(scales):
    b = Builder("g")
    y = b.matvec(b.input("x", (2, 64)), b.weight("w", (8, 64)), *(SCALES[s](b) for s in scales))
    assert y.type == "f32[2, 8]"


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (["factors"], r"factor: f32\[1\], found f32\[8\]"),
        (["a half"], r"factor: f32\[1\], found f16\[1\]"),
        (["another T"], r"inverse: f32\[T, 1\], found f32\[1, 1\]"),
        (["vector"], r"inverse: f32\[T, 1\], found f32\[2, 8\]"),
        (["inverse", "factor"], r"inverse: f32\[T, 1\], found f32\[1\]"),
        (["factor", "factors"], r"inverse: f32\[T, 1\], found f32\[8\]"),
        (["inverse", "inverse too"], "one inverse, found two"),
        (["factor", "inverse", "inverse too"], r"operands \(x: f32\[T, n\], w: "),
    ],
    ids=str,
)
def test_what_may_not(scales, message):
    b = Builder("g")
    x, w = b.input("x", (2, 64)), b.weight("w", (8, 64))
    with pytest.raises(FusecError, match=f"expected {message}"):
        b.op("matvec", x, w, *(SCALES[s](b) for s in scales))
