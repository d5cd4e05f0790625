"""Products whose rows are sums of parts: which they are, at any level, width and context."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec.ir import Builder, Graph
from fusec.ir.op_matvec import branch_of
from fusec.passes.pipeline import LEVELS, passes_of, run_passes
from fusec.passes.split_products import SplitProducts
from tests.graphs import BLOCKS, Types, block_graph, llama_graph
from tests.passes.stages import reasons_of, through
from tests.targets import AMPERE, ANY, HOPPER


def split_of(graph: Graph, target=HOPPER) -> dict[str, int]:
    """Matrix -> lanes of a part, where a product has parts."""
    after = through(graph, target, "place-weights", "split-products")
    return {n.weights[0].name: branch_of(n) for n in after.nodes if branch_of(n)}


def reasons(graph: Graph) -> tuple[int, list[str]]:
    return reasons_of(SplitProducts(), through(graph, HOPPER, "place-weights"), HOPPER)


def attended(heads=2, head_dim=64, rows=64, matrix="q8_0", behind="") -> Graph:
    b = Builder("g")
    q, pos = b.input("q", (1, heads * head_dim)), b.input("pos", (1,), "i32")
    k, v = (b.state(name, (40, 1, head_dim), "f16") for name in "kv")
    a = b.attention(q, k, v, pos, heads=heads, kv_heads=1, scale=0.2, name="a")
    if behind:
        a = b.rms_norm(a, b.weight("g", (heads * head_dim,)), eps=1e-5)
    return b.build(b.matvec(a, b.weight("w", (rows, heads * head_dim), matrix), name="y"))


def gated(ffn=192, rows=64, matrix="q8_0", residual=False, factor=False) -> Graph:
    b = Builder("g")
    x = b.input("x", (1, 64))
    gate, up = (b.matvec(x, b.weight(name, (ffn, 64), matrix)) for name in ("gate", "up"))
    h = b.mul(b.silu(gate), up, name="h")
    w = b.weight("w", (rows, ffn), matrix)
    y = b.matvec(h, w, *([b.weight("f", (1,))] if factor else []), name="y")
    return b.build(b.add(y, x) if residual else y)


@pytest.mark.parametrize(("head_dim", "branch"), [(32, 1), (64, 2), (256, 8)])
def test_a_part_of_attention_is_a_head(head_dim: int, branch: int) -> None:
    assert split_of(attended(head_dim=head_dim)) == {"@w": branch}


@pytest.mark.parametrize(("ffn", "branch"), [(192, 8), (1536, 4)])
def test_a_part_of_rows_is_what_a_cluster_makes(ffn: int, branch: int) -> None:
    assert split_of(gated(ffn)) == {"@w": branch}


def test_products_behind_other_vectors_have_an_order() -> None:
    assert split_of(attended(behind="norm")) == {}
    assert split_of(gated(residual=True)) == {"@w": 8}  # and neither gate nor up


def test_a_target_without_parts() -> None:
    for target in (ANY, AMPERE):
        assert split_of(gated(), target) == {}


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_it_is_the_same_at_any_width_and_level(name: str) -> None:
    """Or a row would have other bytes there."""
    kinds = {"matrix": "iq4_nl"}
    make = (
        (lambda tokens: block_graph(**BLOCKS["gemma"], **kinds, tokens=tokens))
        if name == "gemma"
        else (lambda tokens: llama_graph(types=Types("iq4_nl"), tokens=tokens))
    )
    wanted = split_of(make(1))
    assert wanted
    for level in LEVELS:
        for tokens in (1, 2, 12, 40):
            final = run_passes(make(tokens), passes_of(level), HOPPER)[-1].graph
            found = {n.weights[-1].name: branch_of(n) for n in final.walk() if branch_of(n)}
            parts = {n.weights[-1].name for n in final.walk() if n.op == "matvec_parts"}
            parts |= {n.matrices[0].name for n in final.walk() if n.op == "attention_project"}
            assert found == {k: v for k, v in wanted.items() if k not in parts}
            assert parts <= wanted.keys()


def test_every_reason() -> None:
    reasons_of_it = {
        "a factor: %y is scaled by @f": gated(factor=True),
        "not whole quads: @w has 62 rows": gated(rows=62),
        "no blocks of 32: @w is f32": gated(matrix="f32"),
        "too many parts: 16, expected at most 8": gated(ffn=2560),
        "no branch of a sum: heads of 96, expected 32 times a power of 2": attended(head_dim=96),
        "too long a row: 64 blocks for 32 lanes": attended(heads=32),
    }
    for reason, graph in reasons_of_it.items():
        assert reasons(graph) == (0, [reason])


def test_matrices_in_tiles_stay() -> None:
    graph = attended(heads=32, head_dim=64, matrix="q4_0")
    assert reasons(graph) == (0, ["in tiles of rows: @w"])


def test_a_pass_that_is_left_out_leaves_sums_in_order() -> None:
    """And then nobody makes parts."""
    graph = llama_graph(types=Types("iq4_nl"))
    final = run_passes(graph, passes_of(3, disable=["split-products"]), HOPPER)[-1].graph
    found = {n.op for n in final.walk()}
    assert not found & {"split_matvec", "matvec_parts", "attention_project"}


def test_another_target_does_not_matter_to_formats() -> None:
    """Who reads no format makes no parts of it."""
    sums = replace(HOPPER.column_sums, formats=frozenset({"q4_0"}))
    assert split_of(gated(), replace(HOPPER, column_sums=sums)) == {}
