"""Every rule of verify, broken once."""

from dataclasses import replace

import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Value, verify
from fusec.passes.pipeline import passes_of, run_passes
from tests.graphs import llama_graph
from tests.targets import ANY


def graph():
    return llama_graph(layers=1)


def edited(edit):
    g = graph()
    return g.replace_nodes(edit(list(g.nodes)))


def swapped(nodes):
    nodes[1], nodes[2] = nodes[2], nodes[1]
    return nodes


def retyped(nodes):
    nodes[1] = replace(nodes[1], outputs=(replace(nodes[1].outputs[0], shape=(1, 7)),))
    return nodes


def misread(nodes):
    first = replace(nodes[2].inputs[0], shape=(1, 7))
    nodes[2] = replace(nodes[2], inputs=(first, *nodes[2].inputs[1:]))
    return nodes


def retyped_weight(nodes):
    head = nodes[-2]
    nodes[-2] = replace(head, inputs=(head.inputs[0], replace(head.inputs[1], dtype="q8_0")))
    return nodes


def late_reader(nodes):
    append = next(n for n in nodes if n.op == "kv_append")
    attention = next(n for n in nodes if n.op == "attention")
    q, _, v, pos = attention.inputs
    nodes[nodes.index(attention)] = replace(attention, inputs=(q, append.inputs[0], v, pos))
    return nodes


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swapped, "reads %blk.0.attn_norm, which a later node makes"),
        (lambda n: n[1:], "reads %embed, which nothing makes"),
        (lambda n: [n[0], *n], "%embed is defined a second time"),
        (retyped, "rms_norm making %blk.0.attn_norm: inferred"),
        (misread, "reads %blk.0.attn_norm as f32[1, 7]; it is f32[1, 64]"),
        (retyped_weight, "@token_embd.weight is q8_0[64, 64], but iq4_nl[64, 64] before"),
        (late_reader, "after $blk.0.k' appended to it"),
        (lambda n: n[:-1], "output %next is not computed by any node"),
    ],
)
def test_a_broken_graph_is_refused(edit, message):
    with pytest.raises(FusecError) as error:
        verify(edited(edit))
    assert message in str(error.value)


def test_a_state_is_named_after_the_one_it_appends_to():
    g = graph()
    append = next(n for n in g.nodes if n.op == "kv_append")
    wrong = replace(append, outputs=(replace(append.outputs[0], name="$other'"),))
    with pytest.raises(FusecError, match=r"expected \$blk\.0\.k'"):
        verify(g.replace_nodes(wrong if n is append else n for n in g.nodes))


def test_a_fused_node_declares_what_its_body_reads_and_makes():
    g = run_passes(graph(), passes_of(2), ANY)[-1].graph
    node = next(n for n in g.nodes if n.op == "fused")
    at = g.nodes.index(node)
    for wrong, message in (
        (replace(node, inputs=node.inputs[:-1]), "body reads"),
        (replace(node, body=node.body[:-1]), "body"),
    ):
        with pytest.raises(FusecError, match=message):
            verify(g.replace_nodes((*g.nodes[:at], wrong, *g.nodes[at + 1 :])))


def test_two_inputs_of_one_name_are_refused():
    g = graph()
    with pytest.raises(FusecError, match="share a name"):
        verify(replace(g, inputs=(*g.inputs, g.inputs[0])))


def pos(b, tokens=1):
    return b.input("p", (tokens,), "i32")


ROPE = {"base": 1.0, "head_dim": 8, "dims": 4}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b, x: b.rms_norm(x, b.weight("g", (31,)), eps=1e-5), "expected w: f32[32]"),
        (lambda b, x: b.matvec(x, b.weight("w", (8, 64))), "expected w: [rows, 32]"),
        (lambda b, x: b.matvec(x, b.weight("w", (8, 40), "iq4_nl")), "whole iq4_nl blocks"),
        (lambda b, x: b.add(x, b.input("y", (1, 16))), "expected b: f32[1, 32]"),
        (lambda b, x: b.rope(x, pos(b, 2), **ROPE), "pos: i32[1]"),
        (lambda b, x: b.rope(x, pos(b), **(ROPE | {"head_dim": 5})), "whole heads"),
        (lambda b, x: b.rms_norm(x, b.weight("g", (32,)), eps=1), "eps to be float"),
        (lambda b, x: b.rms_norm(x, b.weight("g", (32,))), "expected attributes ['eps']"),
        (lambda b, x: b.matvec(x), "expected operands"),
        (lambda b, x: b.kv_append(b.state("s", (4, 3, 8)), x, pos(b)), "f32[T, 24]"),
        (lambda b, x: b.kv_append(x, x, x), "state: [context"),
        (lambda b, x: b.embed(x, b.weight("w", (4, 4))), "token: i32[T]"),
    ],
)  # fmt: skip
def test_operands_an_op_cannot_take_are_refused_where_they_are_given(build, message):
    b = Builder("g")
    x = b.input("x", (1, 32))
    with pytest.raises(FusecError) as error:
        build(b, x)
    assert message in str(error.value)


def test_unknown_names_are_refused_with_the_known_ones():
    b = Builder("g")
    with pytest.raises(AttributeError, match="known are add, "):
        b.no_such_op(b.input("x", (1, 32)))
    with pytest.raises(FusecError, match=r"unknown dtype 'q9': known are"):
        b.matvec(b.input("y", (1, 32)), Value("@w", "q9", (32, 32)))
    with pytest.raises(FusecError, match="defined twice"):
        b.input("y", (1, 32))
