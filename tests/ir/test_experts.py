"""Routing, in the reference: who is chosen, with which weight; and what the table refuses."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference
from fusec.ir.op_experts import product_bytes
from fusec.ir.ops import OPS, bytes_moved, weight_bytes
from fusec.passes.cost import moved

route = OPS["route"].reference
USUAL = {"used": 2, "gating": "softmax", "normalised": 1, "scale": 1.0, "groups": 1}
USUAL |= {"groups_used": 1}
LOGITS = np.array([[0.5, 2.0, -1.0, 1.0, 0.0, -2.0]])


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("gating", "gated"),
    [
        ("softmax", softmax),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("softplus", lambda x: np.sqrt(np.log1p(np.exp(x)))),
    ],
)
def test_weights_are_the_gated_logits_of_the_chosen(gating, gated) -> None:
    ids, weights = route(LOGITS, **USUAL | {"gating": gating, "normalised": 0})
    assert ids.dtype == np.int32 and ids.tolist() == [[1, 3]]
    assert np.allclose(weights, gated(LOGITS)[:, [1, 3]])
    _, normalised = route(LOGITS, **USUAL | {"gating": gating, "scale": 2.5})
    assert np.allclose(normalised, 2.5 * weights / weights.sum())


def test_a_softmax_may_be_of_the_chosen_alone() -> None:
    ids, weights = route(LOGITS, **USUAL | {"gating": "chosen", "normalised": 0})
    assert ids.tolist() == [[1, 3]]
    assert np.allclose(weights, softmax(LOGITS[:, [1, 3]]))


def test_the_bias_decides_who_is_chosen_and_nothing_else() -> None:
    bias = np.array([0.0, -9.0, 0.0, 0.0, 9.0, 0.0])
    ids, weights = route(LOGITS, bias, **USUAL | {"gating": "sigmoid", "normalised": 0})
    assert ids.tolist() == [[4, 3]]
    assert np.allclose(weights, 1 / (1 + np.exp(-LOGITS[:, [4, 3]])))


def test_groups_are_chosen_by_their_two_best() -> None:
    """The best expert of all is in the group that is left out."""
    logits = np.array([[3.0, -3.0, -3.0, 1.0, 1.0, 0.0]])
    given = USUAL | {"gating": "sigmoid", "groups": 2, "groups_used": 1}
    assert route(logits, **given)[0].tolist() == [[3, 4]]
    assert route(logits, **given | {"groups_used": 2})[0].tolist() == [[0, 3]]


def test_of_equals_the_lower_number_is_chosen() -> None:
    ids, _ = route(np.zeros((2, 6)), **USUAL | {"used": 3})
    assert ids.tolist() == [[0, 1, 2]] * 2
    ids, _ = route(np.array([[1.0, 2.0, 2.0, 1.0, 2.0, 1.0]]), **USUAL | {"used": 4})
    assert ids.tolist() == [[1, 2, 4, 0]]
    given = USUAL | {"groups": 3, "groups_used": 2}
    assert route(np.zeros((1, 6)), **given)[0].tolist() == [[0, 1]]


def test_weights_of_nothing_are_not_divided_by_nothing() -> None:
    logits = np.full((1, 6), -40.0)
    _, weights = route(logits, **USUAL | {"gating": "sigmoid"})
    assert np.allclose(weights, np.exp(-40.0) * 2**14)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gating": "relu"}, "gating: softmax or sigmoid or chosen or softplus, found relu"),
        ({"used": 7}, "1 to 6 experts used, found 7"),
        ({"used": 0}, "1 to 6 experts used, found 0"),
        ({"groups": 4}, "4 groups of as many experts, found 6 experts"),
        ({"groups": 6}, "groups of at least two experts, found 1"),
        ({"groups": 2, "groups_used": 3}, "1 to 2 groups used, found 3"),
        ({"groups": 3, "used": 3}, "1 to 2 experts used, found 3"),
    ],
)
def test_what_cannot_be_chosen_is_refused(given: dict, message: str) -> None:
    b = Builder("g")
    with pytest.raises(FusecError, match=message):
        b.route(b.input("x", (1, 6)), **{"used": 2, "gating": "softmax"} | given)


@pytest.mark.parametrize(
    ("rows", "shape", "used", "message"),
    [
        (16, (60, 32), 2, r"whole experts of 16 rows, found f32\[60, 32\]"),
        (16, (64, 16), 2, r"w: \[experts \* rows, 32\], found f32\[64, 16\]"),
    ],
)
def test_stacks_of_other_shapes_are_refused(rows, shape, used, message) -> None:
    b = Builder("g")
    x, ids = b.input("x", (1, 32)), b.input("ids", (1, used), "i32")
    with pytest.raises(FusecError, match=message):
        b.expert_matvec(x, b.weight("w", shape), ids, rows=rows)


def test_an_index_from_more_experts_than_there_are_is_refused() -> None:
    b = Builder("g")
    x = b.input("x", (1, 32))
    ids, _ = b.route(b.matvec(x, b.weight("router", (8, 32))), used=2, gating="softmax")
    y = b.expert_matvec(x, b.weight("w", (4 * 16, 32)), ids, rows=16)
    with pytest.raises(FusecError, match=r"its index %1 may leave its memory: .* of 4 elements"):
        b.build(y)


def test_bytes_are_those_of_the_chosen_experts() -> None:
    b = Builder("g")
    x, ids = b.input("x", (1, 32)), b.input("ids", (1, 3), "i32")
    y = b.expert_matvec(x, b.weight("w", (8 * 16, 32), "q8_0"), ids, rows=16)
    graph = b.build(y)
    (node,) = graph.nodes
    read = 3 * 16 * 34
    vectors = 4 * 32 + 4 * 3 + 4 * 48
    assert weight_bytes(node, node.inputs[1]) == read
    assert bytes_moved(node) == product_bytes(node) == read + vectors == moved(node)
    assert OPS["expert_matvec"].flops(node) == 2 * 3 * 16 * 32


def test_an_element_may_be_for_several_neighbours() -> None:
    b = Builder("g")
    x, few = b.input("x", (2, 6)), b.input("few", (2, 3))
    graph = b.build(b.mul(x, few, name="y"))
    given = {"x": np.ones((2, 6)), "few": np.array([[1, 2, 3], [4, 5, 6]])}
    made = Reference(graph, {}).step(**given)["y"]
    assert made.tolist() == [[1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 6, 6]]
