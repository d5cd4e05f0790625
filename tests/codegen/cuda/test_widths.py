"""How many rows of a step a thread block takes, and the plan for fewer rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec import driver
from fusec.codegen.cuda.rows import FEW, MANY, for_fewer, rows_of_block
from fusec.codegen.cuda.tilings import MEDIUM, NARROW, WIDE
from fusec.ir import Builder, Graph
from fusec.ir.plan import LaunchPlan
from fusec.ir.text import parse
from tests.graphs import Types, llama_graph

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


@pytest.mark.parametrize(("tokens", "rows"), [(9, 16), (16, 16), (64, 16), (65, 24), (512, 24)])
def test_products_take_tiles_of_rows(tokens: int, rows: int) -> None:
    assert rows_of_block(product(), tokens, SHARED, SMS) == rows


@pytest.mark.parametrize(
    ("matrix", "tokens", "sms", "rows"),
    [
        (3072, 512, 132, WIDE),  # 768 wide tiles, six for every SM but a few
        (576, 512, 132, MEDIUM),  # 144, and 132 SMs: 396 smaller ones are three for each
        (960, 512, 132, WIDE),
        (576, 512, 72, WIDE),  # two for every SM
        (576, 128, 132, MEDIUM),
    ],
)
def test_tiles_are_such_that_all_multiprocessors_have_as_many(matrix, tokens, sms, rows) -> None:
    assert rows_of_block(product(matrix), tokens, SHARED, sms) == rows


@pytest.mark.parametrize(("tokens", "rows"), [(2, 1), (MANY - 1, 1), (MANY, 16), (512, 16)])
def test_attention_takes_several_where_there_are_many(tokens: int, rows: int) -> None:
    assert rows_of_block(attention(), tokens, SHARED, SMS) == rows
    assert rows_of_block(plain(), tokens, SHARED, SMS) == 1


def test_attention_takes_as_many_as_fit_in_shared_memory() -> None:
    found = [rows_of_block(attention(), 64, shared << 10, SMS) for shared in (228, 100, 64, 32, 8)]
    assert found == sorted(found, reverse=True)
    assert set(found) <= {16, 8, 1} and found[0] == 16 and found[-1] == 1


# --- fewer rows ----------------------------------------------------------------------------------


def test_the_narrow_plan_is_the_wide_one_in_narrower_tiles() -> None:
    wide = plan_of(128)
    narrow = for_fewer(wide)
    assert narrow is not None
    assert narrow == replace(wide, tokens=FEW, kernels=narrow.kernels, launches=narrow.launches)
    for one, other in zip(wide.kernels, narrow.kernels, strict=True):
        if one.rows not in (WIDE, MEDIUM):
            assert other == one
            continue
        assert (one.name[-3:], other.name) == (f"_{one.rows}", f"{one.name[:-3]}_16")
        assert other.rows == NARROW
        assert parse(other.region) == replace(parse(one.region), name=other.name)
    for one, other in zip(wide.launches, narrow.launches, strict=True):
        size = None if other.kernel != one.kernel else one.size  # only its emitter knows
        assert other == replace(one, kernel=other.kernel, size=size)
    names = {kernel.name for kernel in narrow.kernels}
    assert {launch.kernel for launch in narrow.launches} == names


def test_kernels_of_narrow_steps_are_shared_between_contexts() -> None:
    """Those of the narrow plan of 128 rows are those of a step of 20."""
    narrow = for_fewer(plan_of(128))
    assert narrow is not None
    products = {k.name: k.region for k in narrow.kernels if "matvec" in k.name}
    assert products == {k.name: k.region for k in plan_of(20).kernels if "matvec" in k.name}


@pytest.mark.parametrize(
    ("tokens", "matrix"), [(1, "q8_0"), (2, "q8_0"), (8, "f16"), (32, "q8_0"), (64, "f16")]
)
def test_a_plan_without_wide_tiles_is_narrow_already(tokens: int, matrix: str) -> None:
    plan = plan_of(tokens, matrix)
    assert for_fewer(plan) is None
    wide = for_fewer(plan_of(128))
    assert wide is not None and for_fewer(wide) is None


@pytest.mark.parametrize(("tokens", "rows"), [(2, 2), (3, 4), (4, 4), (8, 4)])
def test_blocks_that_make_partial_sums_take_some_rows(tokens: int, rows: int) -> None:
    plan = plan_of(tokens)
    found = {kernel.rows for kernel in plan.kernels if "parts" in kernel.name}
    assert found == {rows} and {kernel.rows for kernel in plan.kernels} == {1, rows}
    fewer = for_fewer(plan)
    assert (fewer is None) == (rows == 2)
    if fewer is not None:
        assert {kernel.rows for kernel in fewer.kernels} == {1, 2} and fewer.tokens == 2
