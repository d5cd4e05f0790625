"""Every rule of verify, broken once."""

from dataclasses import replace

import pytest

from fusec.errors import FusecError
from fusec.ir import Builder, Value, verify
from fusec.ir.graph import Node, attrs
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.schedule import Schedule
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


def rebuilt_cache(nodes, shape):
    """The cache as another shape wherever it is read or made."""

    def of(value):
        return replace(value, shape=shape) if value.buffer == "$blk.0.k" else value

    return [
        replace(n, inputs=tuple(map(of, n.inputs)), outputs=tuple(map(of, n.outputs)))
        for n in nodes
    ]


@pytest.mark.parametrize("shape", [(32, 4, 8), (32, 1, 32)], ids=str)
def test_a_cache_with_another_number_of_kv_heads_is_refused(shape):
    """It has as many elements a position, so the append takes it."""
    g = graph()
    states = (replace(g.states[0], shape=shape), *g.states[1:])
    wrong = replace(g, states=states, nodes=tuple(rebuilt_cache(g.nodes, shape)))
    with pytest.raises(FusecError) as error:
        verify(wrong)
    assert str(error.value) == (
        "attention making %blk.0.attn: expected state [context, 2, 16], "
        f"found f16[{', '.join(map(str, shape))}]"
    )


@pytest.mark.parametrize(
    "output", [Value("%next", "f32", (1,)), Value("%next", "i32", (2,)), Value("%pos", "f32", (1,))]
)
def test_an_output_has_the_type_it_is_made_with(output):
    g = graph()
    with pytest.raises(FusecError) as error:
        verify(replace(g, outputs=(g.outputs[0], output)))
    assert str(error.value) == (
        f"graph {g.name}: output {output.name} is declared {output.type}; it is made as i32[1]"
    )


def two_appends(b):
    """Query, position, and a cache with two rows appended one after the other."""
    pos, x = b.input("pos", (1,), "i32"), b.input("x", (1, 32))
    k = b.state("k", (8, 2, 16))
    return k, x, pos, lambda state: b.kv_append(state, x, pos)


def attention(b, k, x, pos):
    return b.attention(x, k, k, pos, heads=2, kv_heads=2, scale=1.0, name="old")


@pytest.mark.parametrize("version", [0, 1])
def test_an_old_state_is_not_read_behind_two_appends(version):
    b = Builder("g")
    k, x, pos, append = two_appends(b)
    versions = [k, append(k)]
    versions.append(append(versions[-1]))
    old = versions[version]
    with pytest.raises(FusecError) as error:
        b.build(attention(b, old, x, pos))
    assert f"%old: reads {old.name} after $k'' appended to it" in str(error.value)


def both_appends_in_one(reader_first):
    """A fused node that appends twice and hands on the last version only; who reads the first."""
    b = Builder("g")
    k, x, pos, append = two_appends(b)
    old = attention(b, k, x, pos)
    last = append(append(k))
    graph = b.build(old)
    read, *appends = graph.nodes
    node = Node("fused", (k, x, pos), (last,), attrs(kind="twice"), tuple(appends))
    return graph.replace_nodes((read, node) if reader_first else (node, read))


def test_an_old_state_is_not_read_behind_a_node_that_appends_twice():
    verify(both_appends_in_one(reader_first=True))
    with pytest.raises(FusecError) as error:
        verify(both_appends_in_one(reader_first=False))
    assert str(error.value) == ("%old: reads $k after $k'' appended to it")


def test_a_node_that_appends_twice_waits_for_all_readers_of_what_it_overwrites():
    graph = both_appends_in_one(reader_first=True)
    assert [n.name for n in Schedule().run(graph, ANY)[0].nodes] == ["%old", "$k''"]
    assert lower(graph, "any", 0).launches[1].waits == (0,)


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


def attends(b, x, cache, kv_heads=2):
    """Two heads of 16 over a key cache of that shape."""
    k, v = b.state("k", cache), b.state("v", (8, 2, 16))
    return b.attention(x, k, v, pos(b), heads=2, kv_heads=kv_heads, scale=1.0)


ROPE = {"base": 1.0, "head_dim": 8, "dims": 4}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b, x: b.rms_norm(x, b.weight("g", (31,)), eps=1e-5), "expected w: f32[32]"),
        (lambda b, x: b.matvec(x, b.weight("w", (8, 64))), "expected w: [rows, 32]"),
        (lambda b, x: b.matvec(x, b.weight("w", (8, 40), "iq4_nl")), "whole iq4_nl blocks"),
        (lambda b, x: b.add(x, b.input("y", (1, 20))), "expected b: f32[1, 32]"),
        (lambda b, x: b.rope(x, pos(b, 2), **ROPE), "pos: i32[1]"),
        (lambda b, x: b.rope(x, pos(b), **(ROPE | {"head_dim": 5})), "whole heads"),
        (lambda b, x: b.rms_norm(x, b.weight("g", (32,)), eps="1"), "eps to be float"),
        (lambda b, x: b.op("rms_norm", x, b.weight("g", (32,))), "expected attributes ['eps']"),
        (lambda b, x: b.op("matvec", x), "expected operands"),
        (lambda b, x: b.kv_append(b.state("s", (4, 3, 8)), x, pos(b)), "f32[T, 24]"),
        (lambda b, x: b.kv_append(x, x, x), "state: [context"),
        (lambda b, x: b.embed(x, b.weight("w", (4, 4))), "token: i32[T]"),
        (lambda b, x: b.rope(x, pos(b), **(ROPE | {"head_dim": 0})), "whole heads of 0"),
        (lambda b, x: b.attention(x, x, x, pos(b), heads=2, kv_heads=0, scale=1.0), "at least 1"),
        (lambda b, x: b.attention(x, x, x, pos(b), heads=0, kv_heads=2, scale=1.0), "at least 1"),
        (lambda b, x: attends(b, x, (8, 3, 16)), "state [context, 2, 16], found f16[8, 3, 16]"),
        (lambda b, x: attends(b, x, (8, 2, 8)), "state [context, 2, 16], found f16[8, 2, 8]"),
        (lambda b, x: attends(b, x, (8, 2, 16), kv_heads=1), "state [context, 1, 16], found"),
        (lambda b, x: b.attention_combine(x, x, pos(b), heads=0, span=8, spans=2), "at least one"),
        (lambda b, x: b.attention_combine(x, x, pos(b), heads=2, span=8, spans=0), "at least one"),
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
