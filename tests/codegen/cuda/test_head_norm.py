"""Norms of heads, a warp each: alone, behind and in front of other ops, in heads of any size."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.build import compile_many
from fusec.ir import Builder
from tests.codegen.cuda.one_kernel import check_fused, distance, fused, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

HEADS = [6, 8, 64, 80, 130]  # of less than a quad a lane and of more; of no whole quads


@pytest.mark.parametrize("head_dim", HEADS)
@pytest.mark.parametrize("heads", [1, 3, 11])
def test_alone(head_dim: int, heads: int) -> None:
    b, n = Builder("alone"), heads * head_dim
    y = b.head_norm(b.input("x", (1, n)), b.weight("g", (head_dim,)), eps=0.1, head_dim=head_dim)
    graph = b.build(y)
    weights, given = random_weights(graph), inputs_of(graph)
    (found,) = TwinSession(graph, weights, 0).step(**given).values()
    x = given["x"].reshape(heads, head_dim).astype(np.float64)
    wanted = x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.1) * weights["@g"]
    assert distance(found.reshape(heads, head_dim), wanted) < 1e-6


@pytest.mark.parametrize("head_dim", HEADS)
def test_of_what_the_kernel_makes_itself(head_dim: int) -> None:
    b, n = Builder("inside"), 3 * head_dim
    x = b.silu(b.input("x", (1, n)))
    check_fused(b.build(b.head_norm(x, b.weight("g", (head_dim,)), eps=1e-5, head_dim=head_dim)))


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize("head_dim", HEADS)
def test_in_front_of_a_rotation_and_the_cache(head_dim: int, pairing: str) -> None:
    b, heads = Builder("cache"), 2
    pos, gain = b.input("pos", (1,), "i32"), b.weight("g", (head_dim,))
    turn = {"base": 1e3, "head_dim": head_dim, "dims": head_dim, "pairing": pairing}
    q, k = (b.input(name, (1, heads * head_dim)) for name in "qk")
    q, k = (b.rope(b.head_norm(v, gain, eps=1e-5, head_dim=head_dim), pos, **turn) for v in (q, k))
    b.kv_append(b.state("s", (9, heads, head_dim), "f16"), k, pos)
    check_fused(b.build(q), position=7)


@pytest.mark.parametrize("matrix", ["q8_0", "iq4_nl", "f32"])
@pytest.mark.parametrize("head_dim", [8, 64, 80])
def test_in_front_of_a_product(matrix: str, head_dim: int) -> None:
    b, n = Builder("product"), 4 * head_dim
    y = b.head_norm(b.input("x", (1, n)), b.weight("g", (head_dim,)), eps=1e-5, head_dim=head_dim)
    check_fused(b.build(b.matvec(y, b.weight("w", (20, n), matrix)), y))


def test_the_norm_of_a_norm() -> None:
    b = Builder("twice")
    x = b.rms_norm(b.input("x", (1, 96)), b.weight("h", (96,)), eps=1e-5)
    y = b.head_norm(x, b.weight("g", (16,)), eps=1e-5, head_dim=16)
    y = b.rms_norm(y, b.weight("i", (96,)), eps=1e-5)
    check_fused(b.build(b.matvec(y, b.weight("w", (8, 96), "q8_0"))))


def test_what_is_not_a_number_stays_in_its_head() -> None:
    b = Builder("nan")
    y = b.head_norm(b.input("x", (1, 24)), b.weight("g", (8,)), eps=1e-5, head_dim=8)
    graph = b.build(y)
    given = inputs_of(graph)
    given["x"][0, 9] = np.nan
    found = TwinSession(graph, random_weights(graph), 0).step(**given)
    (row,) = next(iter(found.values()))
    assert np.isnan(row[8:16]).all() and np.isfinite(np.delete(row, range(8, 16))).all()


def test_in_a_plan_that_overlaps() -> None:
    """Query and key behind a norm of their heads are one launch, with the cache: -O3's bytes."""
    b, d = Builder("deep"), 16
    pos, x = b.input("pos", (1,), "i32"), b.input("x", (1, 64))
    turn = {"base": 1e3, "head_dim": d, "dims": d, "pairing": "halves"}
    made = {}
    for name, heads in (("q", 4), ("k", 2)):
        y = b.matvec(x, b.weight(f"w{name}", (heads * d, 64), "q4_0"))
        y = b.head_norm(y, b.weight(f"g{name}", (d,)), eps=1e-5, head_dim=d)
        made[name] = b.rope(y, pos, **turn, name=name)
    b.kv_append(b.state("s", (9, 2, d), "f16"), made["k"], pos)
    graph = b.build(made["q"])
    weights, given = random_weights(graph), inputs_of(graph, 5)
    plain, deep = (TwinSession(graph, weights, level, target=HOPPER) for level in (0, 3))
    assert [n.kind for n in deep.graph.nodes] == ["matvec", "head_norm_rope_kv"]
    one, other = plain.step(**given), deep.step(**given)
    assert one["q"].tobytes() == other["q"].tobytes()
    assert plain.memory["$s"].tobytes() == deep.memory["$s"].tobytes()


@pytest.mark.cuda
@pytest.mark.slow
def test_it_assembles_without_spills() -> None:
    b = Builder("code")
    pos = b.input("pos", (1,), "i32")
    for head_dim in (6, 64):
        x, gain = b.input(f"x{head_dim}", (1, 9 * head_dim)), b.weight(f"g{head_dim}", (head_dim,))
        y = b.head_norm(b.silu(x), gain, eps=1e-5, head_dim=head_dim)
        y = b.head_norm(y, gain, eps=1e-5, head_dim=head_dim)
        y = b.rope(y, pos, base=1e4, head_dim=head_dim, dims=head_dim)
        b.kv_append(b.state(f"s{head_dim}", (9, 9, head_dim)), y, pos)
    graph = fused(b.build(y))
    (cubin,) = compile_many(
        [*TwinSession(graph, random_weights(graph), 0).kernels.values()], "sm_90a"
    )
    assert cubin.spill_stores == cubin.spill_loads == 0
    assert ".f64" not in cubin.ptx
