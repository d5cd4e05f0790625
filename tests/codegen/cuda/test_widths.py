"""How many rows of a step a thread block takes, and the plan for fewer rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec import driver
from fusec.codegen.cuda.rows import MANY, for_fewer, rows_of_block
from fusec.codegen.cuda.tilings import MEDIUM, NARROW, SLIM, WIDE
from fusec.ir import Builder, Graph
from fusec.ir.plan import LaunchPlan
from fusec.ir.text import parse
from tests.graphs import Types, llama_graph
from tests.shapes import graph_of

SHARED, SMS = 228 << 10, 132


def plan_of(tokens: int, matrix: str = "iq4_nl") -> LaunchPlan:
    graph = llama_graph(tokens=tokens, types=Types(matrix))
    return driver.compile(graph, target="sm_90a").plan


def product(rows: int = 32) -> Graph:
    b = Builder("g")
    return b.build(
        b.silu(b.matvec(b.input("x", (1, 64), "fixed24"), b.weight("w", (rows, 64), "q4_0")))
    )


def attention(heads: int = 4, head_dim: int = 32) -> Graph:
    b = Builder("g")
    q, pos = b.input("q", (1, heads * head_dim)), b.input("pos", (1,), "i32")
    k, v = (b.state(name, (600, 1, head_dim), "f16") for name in "kv")
    return b.build(b.attention(q, k, v, pos, heads=heads, kv_heads=1, scale=0.3))


def plain() -> Graph:
    b = Builder("g")
    return b.build(b.silu(b.input("x", (1, 64))))


@pytest.mark.parametrize("make", [product, attention, plain])
def test_one_row_is_told_of_no_rows(make) -> None:
    assert rows_of_block(make(), 1, SHARED, SMS) == 0


@pytest.mark.parametrize(
    ("matrix", "tokens", "sms", "rows"),
    [
        (3072, 512, 132, WIDE),  # 768 wide tiles, six for every SM but a few
        (576, 512, 132, MEDIUM),  # 144, and 132 SMs: 396 smaller ones are three for each
        (960, 512, 132, WIDE),
        (576, 512, 72, WIDE),  # two for every SM
        (576, 128, 132, MEDIUM),
        (576, 64, 132, NARROW),
        (3072, 16, 132, NARROW),  # 384 slim ones are three for each, which takes longer than two
        (576, 16, 132, SLIM),  # half of the SMs have nothing to do: smaller ones end sooner
        (3072, 8, 132, SLIM),
        (32, 9, 132, SLIM),
    ],
)
def test_tiles_are_such_that_no_multiprocessor_has_long_to_do(matrix, tokens, sms, rows) -> None:
    assert rows_of_block(product(matrix), tokens, SHARED, sms) == rows


@pytest.mark.parametrize(
    ("tokens", "rows"), [(2, 1), (MANY - 1, 1), (MANY, 8), (256, 8), (512, 16)]
)
def test_attention_takes_several_where_there_are_many(tokens: int, rows: int) -> None:
    assert rows_of_block(attention(heads=5), tokens, SHARED, SMS) == rows
    assert rows_of_block(plain(), tokens, SHARED, SMS) == 1


def test_attention_takes_as_many_as_fit_in_shared_memory() -> None:
    graph, sizes = attention(), (228, 100, 64, 32, 8)
    found = [rows_of_block(graph, 1024, shared << 10, SMS) for shared in sizes]
    assert found == sorted(found, reverse=True)
    assert set(found) <= {16, 8, 1} and found[0] == 16 and found[-1] == 1


# --- fewer rows ----------------------------------------------------------------------------------


def test_plans_for_fewer_rows_are_the_widest_with_other_tiles() -> None:
    plan = driver.compile(graph_of("smollm2-135m", 512, layers=4), target="sm_90a").plan
    found = for_fewer(plan, SMS)
    assert found[-1] is plan
    assert [p.tokens for p in found] == [8, 16, 64, 128, 256, 512]
    for fewer in found[:-1]:
        assert fewer == replace(
            plan, tokens=fewer.tokens, kernels=fewer.kernels, launches=fewer.launches
        )
        for one, other in zip(plan.kernels, fewer.kernels, strict=True):
            region = parse(one.region)
            rows = rows_of_block(region, fewer.tokens, SHARED, SMS)
            if one.rows not in (WIDE, MEDIUM) or rows == one.rows:
                assert other == one
                continue
            assert other.rows == rows
            name = f"{one.name.removesuffix(f'_{one.rows}')}_{rows}"
            assert (other.name, parse(other.region)) == (name, replace(region, name=name))
        for one, other in zip(plan.launches, fewer.launches, strict=True):
            size = None if other.kernel != one.kernel else one.size  # only its emitter knows
            assert other == replace(one, kernel=other.kernel, size=size)
        names = {kernel.name for kernel in fewer.kernels}
        assert {launch.kernel for launch in fewer.launches} == names


def test_kernels_of_short_steps_are_shared_between_contexts() -> None:
    """Those of the plan for 64 rows of a context of 128 are those of a context of 64."""
    plans = for_fewer(plan_of(128), SMS)
    fewer = next(plan for plan in plans if plan.tokens >= 64)
    products = {k.name: k.region for k in fewer.kernels if "matvec" in k.name}
    assert products == {k.name: k.region for k in plan_of(64).kernels if "matvec" in k.name}


@pytest.mark.parametrize(
    ("tokens", "matrix"), [(1, "q8_0"), (2, "q8_0"), (8, "f16"), (16, "q8_0"), (64, "f16")]
)
def test_a_plan_whose_blocks_take_as_few_as_can_be_is_the_only_one(tokens, matrix) -> None:
    plan = plan_of(tokens, matrix)
    assert for_fewer(plan, SMS) == (plan,)


@pytest.mark.parametrize(("tokens", "rows"), [(2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_blocks_that_make_partial_sums_take_some_rows(tokens: int, rows: int) -> None:
    plan = plan_of(tokens)
    found = {kernel.rows for kernel in plan.kernels if "parts" in kernel.name}
    assert found == {rows} and {kernel.rows for kernel in plan.kernels} == {1, rows}
    for fewer in for_fewer(plan, SMS)[:-1]:
        taken = {kernel.rows for kernel in fewer.kernels if "parts" in kernel.name}
        assert taken == {fewer.tokens}
