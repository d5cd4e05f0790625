"""The reference ops against formulas written another way."""

import math

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Reference, parse
from fusec.ir.ops import OPS, bytes_moved, flops
from tests.graphs import llama_graph, weights_for
from tests.random_numbers import random_numbers

RANDOM = random_numbers(0)


def test_rope_turns_pairs_by_the_angle_of_their_position():
    x = RANDOM.standard_normal((3, 16))
    pos = np.array([0, 5, 11])
    given = {"base": 100.0, "head_dim": 8, "dims": 4, "scale": 0.5}
    adjacent = OPS["rope"].reference(x, pos, pairing="adjacent", **given)
    halves = OPS["rope"].reference(x, pos, pairing="halves", **given)
    for t in range(3):
        for head in (0, 8):
            for j in range(2):
                turn = np.exp(1j * 0.5 * pos[t] * 100.0 ** (-2 * j / 4))
                a, b = head + 2 * j, head + 2 * j + 1
                assert complex(adjacent[t, a], adjacent[t, b]) == pytest.approx(
                    complex(x[t, a], x[t, b]) * turn
                )
                a, b = head + j, head + j + 2
                assert complex(halves[t, a], halves[t, b]) == pytest.approx(
                    complex(x[t, a], x[t, b]) * turn
                )
            assert (adjacent[t, head + 4 : head + 8] == x[t, head + 4 : head + 8]).all()


def test_rope_lengthens_what_it_turns_and_nothing_else():
    x, pos = RANDOM.standard_normal((2, 8)), np.array([0, 7])
    given = {"base": 100.0, "head_dim": 8, "dims": 4, "scale": 1.0, "pairing": "halves"}
    plain = OPS["rope"].reference(x, pos, **given)
    found = OPS["rope"].reference(x, pos, magnitude=1.5, **given)
    assert found[:, :4] == pytest.approx(1.5 * plain[:, :4])
    assert (found[:, 4:] == x[:, 4:]).all()


def test_rope_factors_divide_the_frequencies():
    x, pos = RANDOM.standard_normal((1, 4)), np.array([3])
    given = {"base": 10.0, "head_dim": 4, "dims": 4, "pairing": "adjacent", "scale": 1.0}
    found = OPS["rope"].reference(x, pos, np.array([1.0, 4.0]), **given)
    turn = np.exp(1j * 3 * 10.0 ** (-0.5) / 4)
    assert complex(found[0, 2], found[0, 3]) == pytest.approx(complex(x[0, 2], x[0, 3]) * turn)


def test_attention_is_causal_and_shares_key_heads():
    heads, kv_heads, head_dim, context = 4, 2, 3, 6
    q = RANDOM.standard_normal((2, heads * head_dim))
    k, v = RANDOM.standard_normal((2, context, kv_heads, head_dim))
    found = OPS["attention"].reference(
        q, k, v, np.array([2, 3]), heads=heads, kv_heads=kv_heads, scale=0.7
    )
    for t, last in enumerate((2, 3)):
        for h in range(heads):
            query = q[t, h * head_dim : (h + 1) * head_dim]
            logits = [0.7 * float(query @ k[p, h // 2]) for p in range(last + 1)]
            total = sum(map(math.exp, logits))
            wanted = sum(math.exp(s) / total * v[p, h // 2] for p, s in enumerate(logits))
            assert found[t, h * head_dim : (h + 1) * head_dim] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("op", "attrs", "formula"),
    [
        ("silu", {}, lambda x: x / (1 + math.exp(-x))),
        ("gelu", {}, lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
        ("scale", {"factor": 0.25}, lambda x: x / 4),
        ("softcap", {"cap": 2.0}, lambda x: 2 * math.tanh(x / 2)),
    ],
)
def test_elementwise_formulas(op, attrs, formula):
    x = np.linspace(-3, 3, 13)[None]
    found = OPS[op].reference(x, **attrs)
    # gelu's tanh form is within 5e-4 of the exact one
    assert found[0] == pytest.approx(
        [formula(v) for v in x[0]], abs=1e-3 if op == "gelu" else 1e-12
    )


def test_tokens_in_one_step_equal_tokens_one_by_one():
    types = dict.fromkeys([w.name[1:] for w in llama_graph().weights], "f32")
    one, three = (llama_graph(tokens=t, types=types) for t in (1, 3))
    weights = weights_for(one)
    ids, pos = np.array([5, 9, 5]), np.arange(3)
    together = Reference(three, weights).step(token=ids, pos=pos)["logits"]
    single = Reference(one, weights)
    for t in range(3):
        step = single.step(token=ids[t : t + 1], pos=pos[t : t + 1])
        assert step["logits"][0] == pytest.approx(together[t])
        assert step["next"][0] == together[t].argmax()
    single.reset()
    assert single.step(token=ids[:1], pos=pos[:1])["logits"][0] == pytest.approx(together[0])


def test_a_missing_input_is_named():
    with pytest.raises(FusecError, match="inputs differ in pos"):
        Reference(llama_graph(), {}).step(token=np.array([0]))


def test_a_missing_weight_and_an_unknown_op_are_named():
    b = Builder("g")
    graph = b.build(b.matvec(b.input("x", (1, 4)), b.weight("w", (2, 4)), name="y"))
    with pytest.raises(FusecError, match="graph g: weight @w is not given"):
        Reference(graph, {}).step(x=np.zeros((1, 4)))
    unknown = parse(str(graph).replace("matvec", "matwec"))
    with pytest.raises(FusecError, match="unknown op 'matwec': did you mean 'matvec'"):
        Reference(unknown, {"w": np.zeros((2, 4))}).step(x=np.zeros((1, 4)))


def test_work_of_a_node():
    b = Builder("g")
    x = b.input("x", (2, 64))
    b.build(b.silu(b.matvec(x, b.weight("w", (32, 64), "iq4_nl"))))
    node = b.build(b.silu(b.matvec(x, b.weight("v", (32, 64), "iq4_nl")))).nodes[0]
    assert flops(node) == 2 * 2 * 32 * 64
    assert bytes_moved(node) == 2 * 64 * 4 + 32 * 64 // 32 * 18 + 2 * 32 * 4
