"""Rules as they are written: what cannot be read is refused where it is written."""

import pytest

from fusec.errors import FusecError
from fusec.ir import Builder
from fusec.passes.pipeline import passes_of, run_passes
from fusec.passes.rule import Rule, pattern
from tests.targets import ANY


@pytest.mark.parametrize(
    ("edges", "given", "message"),
    [
        ("", {}, "expected edges like 'x -> a, x -> b', found ''"),
        ("a -> b,", {}, "expected edges like 'x -> a, x -> b', found ''"),
        ("a", {}, "found 'a'"),
        ("a -> b -> c", {}, "found 'a -> b -> c'"),
        ("a b -> c", {}, "found 'a b -> c'"),
        ("a -> a", {}, "found 'a -> a'"),
        ("a -> b", {"c": "silu"}, "no part 'c': it has a, b"),
        ("a -> b", {"context": "x"}, "no part 'x': it has a, b"),
        ("a -> b", {"kept": "x"}, "no part 'x': it has a, b"),
        ("a -> b", {"context": "a b"}, "every part is context, expected one to merge"),
        ("a -> b, c -> d", {}, "expected connected parts"),
        ("a -> b, b -> c, c -> a", {}, "its edges make a cycle"),
        ("a -> b, b -> a", {}, "its edges make a cycle"),
    ],
)
def test_patterns_that_cannot_be_read(edges, given, message):
    with pytest.raises(FusecError) as error:
        pattern(edges, **given)
    assert message in str(error.value)
    assert str(error.value).startswith(f"pattern '{edges}': ")


@pytest.mark.parametrize(
    "equation", ["", "silu -> mul", "silu -> mul =>", "=> swiglu", " =>  ", "kinds"]
)
def test_equations_without_a_side(equation):
    with pytest.raises(FusecError, match="expected an equation like 'silu -> mul => swiglu'"):
        Rule(equation, pattern("a -> b"))


def rule(wanted: str, equation: str = "a -> b => both", **given) -> Rule:
    return Rule(equation, pattern("a -> b", a=wanted), **given)


@pytest.mark.parametrize(
    "wanted",
    ["silu", "rows", "pair element", "node", "input", "state", "both", "norm_matvec",
     "rope_kv", "sum_norm_matvec_silu_mul_parts", "embed_norm_matvec_add_rope_kv", "head_norm_kv"],
)  # fmt: skip
def test_what_a_pattern_may_name(wanted):
    rule(wanted).check()
    assert passes_of(2, [rule(wanted)])


@pytest.mark.parametrize("wanted", ["relu", "norm_swiglu", "matvecs", "norm_", "_norm", "Silu"])
def test_a_pattern_that_names_what_no_node_is(wanted):
    with pytest.raises(FusecError) as error:
        passes_of(2, [rule(wanted)])
    text = str(error.value)
    assert text.startswith(f"rule 'a -> b => both': no node is ever '{wanted}': known are add, ")
    assert text.endswith(", and kinds made of ops, such as norm_matvec")


def test_a_pattern_may_name_what_another_rule_makes():
    other = Rule("silu -> gelu => mine", pattern("a -> b", a="silu", b="gelu"))
    with pytest.raises(FusecError, match="no node is ever 'mine'"):
        rule("mine").check()
    rule("mine").check(["mine"])
    assert passes_of(2, [rule("mine"), other])
    assert passes_of(2, [other, rule("mine")])


def softcapped():
    b = Builder("g")
    y = b.silu(b.input("x", (1, 32)), name="y")
    return b.build(b.softcap(y, cap=2.0, name="z"))


@pytest.mark.parametrize(
    ("equation", "named", "kind", "name"),
    [
        ("silu -> softcap => soft_silu", "", "soft_silu", "soft-silu"),
        ("silu -> softcap => one of both", "soft", "silu_softcap", "soft"),
        ("silu -> softcap => both", "soft_pair", "silu_softcap", "soft-pair"),
    ],
)
def test_what_the_merged_node_and_the_pass_are_called(equation, named, kind, name):
    own = Rule(equation, pattern("a -> b", a="silu", b="softcap"), named=named)
    stages = run_passes(softcapped(), passes_of(0, [own]), ANY)
    assert [n.kind for n in stages[-1].graph.nodes] == [kind]
    assert f"fuse-{name}" in [stage.name for stage in stages]
    off = passes_of(0, [own], disable=[name])
    assert [n.kind for n in run_passes(softcapped(), off, ANY)[-1].graph.nodes] == [
        "silu", "softcap",
    ]  # fmt: skip


def test_reasons_of_ones_own_come_behind_those_that_hold_for_all():
    own = Rule("a -> b => both", pattern("a -> b", a="silu", b="softcap"), lambda g, m: "no")
    (stage,) = (s for s in run_passes(softcapped(), passes_of(0, [own]), ANY) if s.refused)
    assert [r.reason for r in stage.refused] == ["no"]
    assert stage.refused[0].nodes == ("%y", "%z")
