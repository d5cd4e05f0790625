"""Norms as two factors: kernels against the reference and each other, and the order of the sum."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import Launch
from fusec.ir import Builder, Graph, Value
from tests.codegen.cuda.one_kernel import check_fused, distance, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.random_numbers import random_numbers
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(3)


def factored(b: Builder, x: Value, gain: str = "g") -> tuple[Value, Value]:
    """x * weight, and the inverse RMS."""
    return b.rms_factors(x, b.weight(gain, (x.shape[1],)), eps=1e-5)


def product(b: Builder, factors: tuple[Value, Value], weight: Value) -> Value:
    """The norm's product by a matrix."""
    gained, inverse = factors
    return b.matvec(gained, weight, inverse)


def sum_in_canonical_order(x: np.ndarray) -> np.float32:
    """A quad's squares; every 32nd quad in order, for each lane; a butterfly."""
    padded = np.zeros(-(-x.size // 128) * 128, np.float32)
    padded[: x.size] = x
    quads = [(q[0] + q[1]) + (q[2] + q[3]) for q in (padded * padded).reshape(-1, 4)]
    lanes = np.zeros(32, np.float32)
    for row in np.array(quads, np.float32).reshape(-1, 32):
        lanes = lanes + row
    for distance_ in (1, 2, 4, 8, 16):
        lanes = lanes + lanes[np.arange(32) ^ distance_]
    assert (lanes == lanes[0]).all()
    return lanes[0]


@pytest.mark.parametrize("n", [4, 7, 128, 130, 576, 1000])
def test_squares_are_added_up_in_the_canonical_order(n: int) -> None:
    quads, threads = -(-n // 4), -(-n // 128) * 32
    source = (
        "from numba import uint32\n"
        "from fusec.codegen.cuda.device import at, barrier, shared_bytes, store_f32, thread_index\n"
        "from fusec.codegen.cuda.lib.vectors import quad, squares_of_lane\n"
        "from fusec.codegen.cuda.lib.vectors import store_squares, warp_sum\n"
        "def squares(x, y):\n"
        f"    partials = shared_bytes({4 * quads})\n"
        f"    store_squares(quad(x, thread_index(), {n}), thread_index(), {quads}, partials)\n"
        "    barrier()\n"
        f"    mine = squares_of_lane(partials, {quads}, uint32(thread_index() & uint32(31)))\n"
        "    store_f32(at(y, thread_index()), warp_sum(mine))\n"
    )
    x = RNG.normal(size=n).astype(np.float32)
    y = np.zeros(threads, np.float32)
    Launch(1, threads).run(CudaKernel("squares", source, ("f32*", "f32*"), threads), x, y)
    assert (y == sum_in_canonical_order(x)).all()


@pytest.mark.parametrize("n", [4, 7, 64, 130, 1100])
def test_both_factors_alone_in_a_kernel(n: int) -> None:
    b = Builder("alone")
    graph = b.build(*factored(b, b.input("x", (1, n))))
    weights, given = random_weights(graph), inputs_of(graph)
    gained, inverse = TwinSession(graph, weights, 0).step(**given).values()
    x = given["x"][0]
    assert (gained.shape, inverse.shape) == ((1, n), (1, 1))
    assert (gained[0] == x * weights["@g"]).all()
    wanted = 1 / np.sqrt(np.mean(x.astype(np.float64) ** 2) + 1e-5)
    assert abs(inverse[0, 0] - wanted) < 4e-7 * wanted


@pytest.mark.parametrize(
    ("matrix", "n"),
    [("f32", 42), ("f16", 130), ("bf16", 96), ("q8_0", 96), ("iq4_nl", 160), ("q6_k", 256)],
)
def test_products_scaled_by_the_second_factor(matrix: str, n: int) -> None:
    b = Builder("product")
    y = product(b, factored(b, b.input("x", (1, n))), b.weight("w", (20, n), matrix))
    check_fused(b.build(b.silu(y)))


@pytest.mark.parametrize("matrix", ["q8_0", "f32"])
def test_a_vector_too_long_for_one_pass_of_a_block(matrix: str) -> None:
    b = Builder("long")
    x = b.input("x", (1, 5024))
    check_fused(b.build(product(b, factored(b, x), b.weight("w", (9, 5024), matrix))))


def test_two_products_of_one_norm_in_two_forms() -> None:
    b = Builder("forms")
    n = factored(b, b.input("x", (1, 96)))
    y, z = (product(b, n, b.weight(t, (24, 96), t)) for t in ("q8_0", "f16"))
    check_fused(b.build(b.mul(y, z)))


def test_two_norms_of_one_vector() -> None:
    b = Builder("norms")
    x = b.input("x", (1, 96))
    y, z = (
        product(b, factored(b, x, f"gain{k}"), b.weight(f"w{k}", (24, 96), "q8_0")) for k in (0, 1)
    )
    check_fused(b.build(b.add(y, z)))


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 1)], ids=["x * weight", "inverse", "both"])
def test_factors_that_somebody_else_needs_are_written(kept: tuple[int, ...]) -> None:
    b = Builder("kept")
    n = factored(b, b.input("x", (1, 130)))
    check_fused(b.build(product(b, n, b.weight("w", (24, 130))), *(n[k] for k in kept)))


def test_two_products_of_one_vector_by_inverses_of_their_own() -> None:
    """Which factor scales a sum is the matvec's, not the vector's."""
    b = Builder("apart")
    one, other = (factored(b, b.input(name, (1, 96)), name) for name in ("x", "z"))
    w = [b.weight(t, (24, 96), t) for t in ("q8_0", "f32", "iq4_nl")]
    y = b.matvec(one[0], w[0], other[1])
    check_fused(b.build(y, b.matvec(one[0], w[1]), b.matvec(other[0], w[2], one[1])))


@pytest.mark.parametrize("matrix", ["q8_0", "f32"])
def test_a_factor_of_the_matrix_and_one_of_the_token(matrix: str) -> None:
    b = Builder("scaled")
    gained, inverse = factored(b, b.input("x", (1, 96)))
    w, s = b.weight("w", (24, 96), matrix), b.weight("s", (1,))
    check_fused(b.build(b.matvec(gained, w, s, inverse)))


def test_a_norm_of_an_embedded_row() -> None:
    b = Builder("row")
    row = b.embed(b.input("token", (1,), "i32"), b.weight("e", (9, 96), "q8_0"))
    y = product(b, factored(b, row), b.weight("w", (96, 96), "iq4_nl"))
    check_fused(b.build(b.add(row, y), row))


def norm_and_products(n: int) -> Graph:
    b = Builder("whole")
    x = b.rms_norm(b.input("x", (1, n)), b.weight("g", (n,)), eps=1e-5)
    return b.build(*(b.matvec(x, b.weight(t, (24, n), t)) for t in ("q8_0", "f32")))


def test_the_pass_gives_the_same_bytes_at_every_level() -> None:
    graph = norm_and_products(224)
    weights, given = random_weights(graph), inputs_of(graph)
    wanted = reference(graph, weights).step(**given)
    sessions = [TwinSession(graph, weights, level, target=HOPPER) for level in range(4)]
    results = [session.step(**given) for session in sessions]
    assert [len(session.plan.launches) for session in sessions] == [3, 1, 1, 1]
    assert all("rms_factors" in s.plan.kernels[0].region for s in sessions)
    for name, value in wanted.items():
        assert distance(results[0][name], value) < 1e-6
        assert len({result[name].tobytes() for result in results}) == 1
