"""Every reason not to fuse, provoked once; and that without the reason the rule applies."""

import pytest

from fusec.ir import Builder
from fusec.ir.target import Target
from fusec.passes.fuse import Fuse
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.rule import Rule, pattern
from tests.graphs import llama_graph
from tests.passes.stages import pass_of
from tests.targets import ANY

PROLOGUE, STACK, CHAIN, PARTS = (
    pass_of(f"fuse-{name}").rule for name in ("prologue", "stack", "chain", "prologue-of-parts")
)


def outcome(graph, rule, target=ANY):
    _, hits, refused = Fuse(rule).run(graph, target)
    return hits, [r.reason for r in refused]


def norm_then_matvec(second_user=False, output=False, dtype="f32", width=64):
    b = Builder("g")
    x = b.input("x", (1, width))
    n = b.rms_norm(x, b.weight("g", (width,)), eps=1e-5, name="n")
    y = b.matvec(n, b.weight("w", (32, width), dtype), name="y")
    outputs = [y]
    if second_user:
        outputs.append(b.silu(n, name="s"))
    if output:
        outputs.append(n)
    return b.build(*outputs)


def test_without_a_reason_the_rule_applies():
    assert outcome(norm_then_matvec(), PROLOGUE) == (1, [])


def test_a_second_user_of_the_intermediate():
    hits, reasons = outcome(norm_then_matvec(second_user=True), PROLOGUE)
    assert (hits, reasons) == (0, ["a second user: %n is also read by %s"])


def test_an_intermediate_that_is_an_output():
    hits, reasons = outcome(norm_then_matvec(output=True), PROLOGUE)
    assert (hits, reasons) == (0, ["a second user: %n is an output of the graph"])


def test_an_unsupported_quant_type():
    target = Target("small", frozenset({"f32"}), 1 << 20)
    hits, reasons = outcome(norm_then_matvec(dtype="iq4_nl"), PROLOGUE, target)
    assert (hits, reasons) == (0, ["an unsupported quant type: @w is iq4_nl"])


def test_shared_memory_too_small():
    target = Target("small", ANY.formats, block_bytes=255)
    hits, reasons = outcome(norm_then_matvec(), PROLOGUE, target)
    assert hits == 0
    assert reasons == [
        "shared memory too small: the prologue takes 256 bytes, a block on small has 255"
    ]
    roomy = Target("roomy", ANY.formats, block_bytes=256)
    assert outcome(norm_then_matvec(), PROLOGUE, roomy) == (1, [])


def parallel_branches(one_product=False):
    """x + a + b, of two products of x, or of two that are one node."""
    b = Builder("g")
    x = b.input("x", (1, 32))
    a, c = (b.matvec(x, b.weight(f"w{name}", (32, 32)), name=name) for name in "ac")
    first = b.add(x, a, name="first")
    graph = b.build(b.add(first, c, name="sum"))
    return run_passes(graph, (Fuse(STACK),), ANY)[-1].graph if one_product else graph


def test_two_element_wise_nodes_that_are_epilogues_of_two_products():
    hits, reasons = outcome(parallel_branches(), CHAIN)
    assert (hits, reasons) == (0, ["two epilogues: one of %a, one of %c"])
    assert outcome(parallel_branches(one_product=True), CHAIN) == (1, [])


def test_a_cycle_through_an_outside_path():
    b = Builder("g")
    x = b.input("x", (1, 32))
    y = b.matvec(x, b.weight("w", (32, 32)), name="y")
    z = b.matvec(b.silu(y, name="s"), b.weight("v", (32, 32)), name="z")
    graph = b.build(b.add(y, z, name="sum"))
    siblings = Rule(
        "matvec & matvec => both", pattern("a -> c, b -> c", context="c", a="matvec", b="matvec")
    )
    hits, reasons = outcome(graph, siblings)
    assert (hits, reasons) == (0, ["a cycle through an outside path: %s leads back to %z"])


def test_a_different_number_of_tokens():
    b = Builder("g")
    rows = b.silu(b.input("rows", (2, 32)), name="s")  # of a matrix that is made in every step
    graph = b.build(b.matvec(b.input("x", (1, 32)), rows, name="y"))
    rule = Rule("silu -> matvec => both", pattern("a -> b", a="silu", b="matvec"))
    assert outcome(graph, rule) == (0, ["a different T: 1, 2 tokens a step"])


def test_matvecs_of_different_vectors_are_not_stacked():
    b = Builder("g")
    x = b.input("x", (1, 32))
    n = b.matvec(x, b.weight("w", (32, 32)), name="n")
    both = b.matvec(x, b.weight("v", (32, 32)), name="m")
    graph = b.build(b.matvec(n, b.weight("a", (8, 32))), b.matvec(both, b.weight("b", (8, 32))))
    stacked, _, _ = Fuse(STACK).run(graph, ANY)
    _, reasons = outcome(stacked, STACK)
    assert reasons == ["different vectors: %m and %n"]


def test_a_result_spread_over_the_grid_cannot_be_needed_whole():
    b = Builder("g")
    x = b.input("x", (1, 32))
    y = b.matvec(x, b.weight("w", (64, 32)), name="y")
    graph = b.build(b.matvec(y, b.weight("v", (8, 64)), name="z"))
    rule = Rule("matvec -> matvec => chain", pattern("a -> b", a="matvec", b="matvec"))
    hits, reasons = outcome(graph, rule)
    assert hits == 0
    assert reasons == [
        "not one kernel: matvec %z needs all of %y, which the same kernel spreads over its blocks"
    ]


def attention_graph():
    b = Builder("g")
    pos = b.input("pos", (1,), "i32")
    q, k, v = (b.input(name, (1, 32)) for name in "qkv")
    keys = b.kv_append(b.state("k", (8, 2, 16)), k, pos)
    values = b.kv_append(b.state("v", (8, 2, 16)), v, pos)
    a = b.attention(q, keys, values, pos, heads=2, kv_heads=2, scale=0.25, name="a")
    return b.build(b.silu(a, name="s"))


def test_attention_needs_the_whole_cache_before_it_starts():
    rule = Rule("kv_append -> attention => x", pattern("w -> a", w="store", a="heads"))
    hits, reasons = outcome(attention_graph(), rule)
    assert hits == 0
    assert "attention %a needs all of $k', which the same kernel appends to" in reasons[0]


def test_heads_share_no_index_with_elements():
    rule = Rule("attention -> silu => x", pattern("a -> s", a="attention", s="silu"))
    hits, reasons = outcome(attention_graph(), rule)
    assert (hits, reasons) == (
        0,
        ["not one kernel: attention %a shares no index with its neighbours"],
    )


def test_rotations_of_different_pairs_do_not_mix():
    b = Builder("g")
    x, pos = b.input("x", (1, 32)), b.input("pos", (1,), "i32")
    given = {"base": 1e4, "dims": 16, "head_dim": 16}
    y = b.rope(x, pos, pairing="adjacent", name="y", **given)
    graph = b.build(b.rope(y, pos, pairing="halves", name="z", **given))
    rule = Rule("rope -> rope => twice", pattern("a -> b", a="rope", b="rope"))
    hits, reasons = outcome(graph, rule)
    assert hits == 0
    assert "rotations pair elements differently" in reasons[0]


@pytest.mark.parametrize("name", ["pairs", "stores", "chain", "epilogue", "chain-to-store"])
def test_rules_do_not_match_what_is_not_there(name):
    assert outcome(norm_then_matvec(), pass_of(f"fuse-{name}").rule) == (0, [])


# --- roles whose values are kept -----------------------------------------------------------------


def row_and_norm(row_is_output=False, norm_is_output=False):
    """An embedding read by a norm and by a residual, and what reads the norm."""
    b = Builder("g")
    x = b.embed(b.input("token", (1,), "i32"), b.weight("e", (9, 32)), name="x")
    n = b.rms_norm(x, b.weight("g", (32,)), eps=1e-5, name="n")
    y = b.matvec(n, b.weight("w", (32, 32)), name="y")
    outputs = [b.add(x, y, name="residual")]
    outputs += [x] if row_is_output else []
    outputs += [n] if norm_is_output else []
    return b.build(*outputs)


EMBEDDED = Rule(
    "embed -> rms_norm -> matvec => embedded",
    pattern(
        "row -> norm, norm -> product",
        kept="row", row="embed", norm="rms_norm", product="matvec",
    ),
)  # fmt: skip


@pytest.mark.parametrize("row_is_output", [False, True])
def test_a_kept_value_is_written_for_its_other_readers(row_is_output):
    graph, hits, refused = Fuse(EMBEDDED).run(row_and_norm(row_is_output), ANY)
    assert (hits, refused) == (1, ())
    merged, residual = graph.nodes
    assert [v.name for v in merged.outputs] == ["%x", "%y"]
    assert [v.name for v in residual.inputs] == ["%x", "%y"]
    assert ("%x" in {v.name for v in graph.outputs}) == row_is_output


def test_a_value_that_is_not_kept_has_no_other_reader():
    hits, reasons = outcome(row_and_norm(norm_is_output=True), EMBEDDED)
    assert (hits, reasons) == (0, ["a second user: %n is an output of the graph"])
    strict = Rule("embed -> rms_norm => both", pattern("row -> norm", row="embed", norm="rms_norm"))
    hits, reasons = outcome(row_and_norm(), strict)
    assert (hits, reasons) == (0, ["a second user: %x is also read by %residual"])


def test_the_first_layer_takes_the_embedding_in_and_writes_it_for_the_residual():
    graph = run_passes(llama_graph(), passes_of(3), ANY)[-1].graph
    first = graph.nodes[0]
    assert first.kind == "embed_norm_matvec_rope_kv"
    assert first.outputs[0].name == "%embed"
    assert [u.kind for u in graph.users["%embed"]] == ["matvec_add"]
    assert [n.kind for n in graph.nodes].count("norm_matvec_rope_kv") == 1  # the second layer's


def test_a_norm_in_front_of_no_product_takes_no_embedding_in():
    """Where a whole vector is handed on anyway, nothing is gained by making it in every block."""
    b = Builder("g")
    x = b.embed(b.input("token", (1,), "i32"), b.weight("e", (9, 32)), name="x")
    graph = b.build(b.rms_norm(x, b.weight("g", (32,)), eps=1e-5, name="n"))
    assert outcome(graph, PARTS) == (0, [])
