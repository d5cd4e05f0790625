"""Rules and patterns that are none: what is wrong, and what is known."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import pytest

from fusec import FusecError, Rule, pattern
from fusec.passes.pipeline import passes_of

GOOD = pattern("a -> b", a="matvec", b="silu")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: pattern("a b"), "expected edges like 'norm -> product, .* found 'a b'"),
        (lambda: pattern(""), "expected edges like"),
        (lambda: pattern("a -> "), "expected edges like"),
        (lambda: pattern("a -> b -> c"), "expected edges like .* found 'a -> b -> c'"),
        (lambda: pattern("a -> a"), "expected edges like .* found 'a -> a'"),
        (lambda: pattern("a -> b, c -> d"), "expected connected parts"),
        (lambda: pattern("a -> b, b -> c, c -> a"), "its edges make a cycle"),
        (lambda: pattern("a -> b", "a b"), "every part is context"),
        (lambda: pattern("a -> b", c="silu"), "no part 'c': it has a, b"),
        (lambda: pattern("a -> b", kept="c"), "no part 'c': it has a, b"),
        (lambda: pattern("a -> b", "c"), "no part 'c': it has a, b"),
        (
            lambda: Rule("bad", GOOD),
            "rule 'bad': expected an equation like 'rms_norm ",
        ),
        (lambda: Rule("a => ", GOOD), "expected an equation like"),
        (lambda: Rule("=> b", GOOD), "expected an equation like"),
        (lambda: Rule("a => b c", GOOD), "expected an equation like"),
        (
            lambda: Rule("rows => x", GOOD),
            "rule 'rows => x': expected 2 parts on its left side, as .* merges a, b, found 'rows'",
        ),
        (lambda: Rule("a -> b -> c => x", GOOD), "expected 2 parts .* found 'a -> b -> c'"),
        (lambda: Rule("a -> => x", GOOD), "expected 2 parts on its left side, .* found 'a ->'"),
        (
            lambda: Rule("a -> b -> c -> d => x", pattern("a -> b, b -> c", context="a")),
            r"expected 2 parts on its left side, as the pattern merges b, c, found 'a -> ",
        ),
        (lambda: pattern(3), "pattern: expected edges as text, .* found 3"),
        (lambda: Rule(3, GOOD), "rule: expected an equation as text, found 3"),
        (lambda: Rule("a => b", "a -> b"), "expected a pattern, as pattern"),
        (lambda: Rule("a => b", nx.DiGraph([("a", "b")])), "expected a pattern, as pattern"),
    ],
)
def test_malformed(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(FusecError, match=reason):
        make()


def test_an_equation_may_name_the_context_too() -> None:
    of_siblings = pattern("x -> a, x -> b", context="x", a="rows", b="rows")
    for equation in ("rows & rows => x", "node -> rows & rows => x", "rows | pair & rows => x"):
        assert Rule(equation, of_siblings).kind == "x"


def test_a_kind_that_nobody_makes_is_named_with_the_known() -> None:
    mistyped = Rule("matvek -> silu => mine", pattern("a -> b", a="matvek", b="silu"))
    with pytest.raises(FusecError, match=r"unknown kind of node 'matvek': known are .*matvec, "):
        passes_of(2, [mistyped])
    mine = Rule("matvec -> silu => mine", GOOD)
    behind = Rule("mine -> mul => more", pattern("a -> b", a="mine norm_matvec", b="mul"))
    assert [p.name for p in passes_of(2, [mine, behind])][-3:-1] == ["fuse-mine", "fuse-more"]
