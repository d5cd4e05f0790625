"""Norms kept as two factors: which ones, why the others are not, and that the meaning stays."""

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.ops import OPS
from fusec.passes.factor_norms import FactorNorms
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from tests.graphs import Types, llama_graph, weights_for
from tests.targets import ANY, HOPPER

RANDOM = np.random.default_rng(5)


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
    factors = after.nodes[0].outputs[0]
    assert (factors.name, factors.shape) == ("%n.factors", (1, 65))
    assert [node.inputs[0] for node in after.nodes[1:]] == [factors, factors]
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


@pytest.mark.parametrize("made", [False, True])
def test_a_name_that_is_taken(made):
    b = Builder("g")
    x = b.input("x" if made else "n.factors", (1, 64))
    n = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5, name="n")
    outputs = [product(b, n)]
    if made:
        outputs.append(b.silu(x, name="n.factors"))
    assert outcome(b.build(*outputs)) == (0, ["a name is taken: %n.factors"])


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
    factors = OPS["rms_factors"].reference(x, gain, eps=0.1)
    mean = (x * x).mean(-1)
    assert np.allclose(factors[:, -1], 1 / np.sqrt(mean + 0.1), rtol=1e-14)
    found = OPS["matvec"].reference(factors, w)
    wanted = (x * gain)[:, :7] / np.sqrt(mean + 0.1)[:, None]
    assert np.abs(found - wanted).max() < 1e-14


@pytest.mark.parametrize("columns", [62, 65])
def test_a_matrix_that_fits_neither_the_vector_nor_its_factors(columns):
    b = Builder("g")
    with pytest.raises(FusecError, match=r"w: \[rows, 64\] or \[rows, 63\]"):
        b.matvec(b.input("x", (1, 64)), b.weight("w", (8, columns)))
