"""Products by heads: each block makes one head's part of the vector, and has rows of that head."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.build import compile_many
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.target import ROWS
from fusec.passes.place_weights import PlaceWeights
from tests.codegen.cuda.one_kernel import check_fused, distance, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels


def product(kind: str, heads: int, columns: int, rows: int, tokens: int = 1) -> Graph:
    b = Builder("heads")
    x = b.input("x", (tokens, heads * columns))
    w = b.weight("w", (heads * rows, columns), kind)
    return b.build(b.silu(b.head_matvec(x, w, heads=heads), name="y"))


@pytest.mark.parametrize(
    ("kind", "columns"),
    [("f32", 16), ("f16", 12), ("q8_0", 32), ("q4_1", 96), ("q4_k", 256), ("q4_0", 1056)],
)
@pytest.mark.parametrize(("heads", "rows"), [(3, 24), (2, 7), (5, 32)])
def test_each_head_has_its_rows(kind: str, columns: int, heads: int, rows: int) -> None:
    graph = product(kind, heads, columns, rows)
    weights, given = random_weights(graph), inputs_of(graph)
    plain, deep = (TwinSession(graph, weights, level, target=HOPPER) for level in (0, 3))
    found = plain.step(**given)["y"]
    assert len(deep.plan.launches) == 1
    assert deep.step(**given)["y"].tobytes() == found.tobytes()
    assert distance(found, reference(graph, weights).step(**given)["y"]) < 3e-6


def test_what_is_not_a_number_stays_in_its_head() -> None:
    graph = product("f16", 3, 12, 8)
    given = inputs_of(graph)
    given["x"][0, 13] = np.nan
    (row,) = TwinSession(graph, random_weights(graph), 0).step(**given)["y"]
    assert np.isnan(row[8:16]).all() and np.isfinite(np.delete(row, range(8, 16))).all()


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_behind_a_norm_and_in_front_of_a_rotation(kind: str) -> None:
    b = Builder("between")
    n = b.rms_norm(b.input("x", (1, 96)), b.weight("g", (96,)), eps=1e-5)
    y = b.head_matvec(n, b.weight("w", (48, 32), kind), heads=3)
    turn = {"base": 1e3, "head_dim": 8, "dims": 6, "pairing": "halves"}
    check_fused(b.build(b.rope(y, b.input("pos", (1,), "i32"), **turn)), position=7)


def test_rows_of_a_step_have_the_bytes_that_they_have_alone() -> None:
    one, many = product("q8_0", 3, 32, 8), product("q8_0", 3, 32, 8, tokens=11)
    weights, given = random_weights(one), inputs_of(many)
    alone = TwinSession(one, weights, 3, target=HOPPER)
    wanted = np.concatenate([alone.step(x=row[None])["y"] for row in given["x"]])
    found = TwinSession(many, weights, 3, target=HOPPER).step(**given)["y"]
    assert found.tobytes() == wanted.tobytes()


def test_its_matrix_lies_by_rows() -> None:
    graph = product("q4_k", 2, 2048, 16)
    after, _, _ = PlaceWeights().run(graph, HOPPER)
    assert [w.layout for w in after.weights] == [ROWS]


def test_it_shares_no_kernel_with_another_product() -> None:
    b = Builder("apart")
    x = b.input("x", (1, 64))
    a = b.head_matvec(x, b.weight("v", (32, 32), "q8_0"), heads=2)
    graph = b.build(b.add(a, b.matvec(x, b.weight("w", (32, 64), "q8_0"))))
    session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
    assert [n.kind for n in session.graph.nodes] == ["matvec", "head_matvec_add"]


def test_heads_of_no_whole_quads_are_refused() -> None:
    graph = product("f32", 2, 6, 8)
    with pytest.raises(FusecError, match="expected heads of whole quads, found 6 elements"):
        TwinSession(graph, random_weights(graph), 0)


@pytest.mark.cuda
def test_it_assembles_without_spills() -> None:
    """As DeepSeek-V3 has it: 128 heads of 128 elements become heads of 512, and back."""
    graphs = [product("q4_k", 128, 512, 128), product("q8_0", 128, 128, 512)]
    kernels = [k for g in graphs for k in TwinSession(g, random_weights(g), 3).kernels.values()]
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
