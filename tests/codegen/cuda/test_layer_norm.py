"""LayerNorm: alone, behind and in front of other ops, of vectors and of heads of any size."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.build import compile_many
from fusec.ir import Builder, Graph, Value
from tests.codegen.cuda.one_kernel import check_fused, distance, fused, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

SIZES = [6, 32, 80, 130, 256, 960]  # of no whole quads, of quads that not every lane has, of all
HEADS = [6, 8, 64, 80, 130]
AWAY = 100.0  # how far the mean is from 0: what is lost by squares that contain it


def layer_norm(b: Builder, x: Value, bias: bool = True, eps: float = 1e-5) -> Value:
    n = x.shape[1]
    weights = [b.weight(name, (n,)) for name in ("g", "h")[: 1 + bias]]
    return b.layer_norm(x, *weights, eps=eps)


def normed(x: np.ndarray, eps: float) -> np.ndarray:
    """float64, without weights."""
    centered = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    return centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + eps)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_alone(n: int, bias: bool) -> None:
    b = Builder("alone")
    graph = b.build(layer_norm(b, b.input("x", (1, n)), bias, eps=0.1))
    weights, given = random_weights(graph), inputs_of(graph)
    given["x"] += np.float32(AWAY)
    (found,) = TwinSession(graph, weights, 0).step(**given).values()
    wanted = normed(given["x"], 0.1) * weights["@g"] + (weights["@h"] if bias else 0)
    # f32 knows a mean near 100 to some 1e-5; squares that contain it would lose fifty times as much
    assert distance(found, wanted) < 3e-5


@pytest.mark.parametrize("n", SIZES)
def test_of_what_the_kernel_makes_itself(n: int) -> None:
    b = Builder("inside")
    check_fused(b.build(layer_norm(b, b.silu(b.input("x", (1, n))))))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("matrix", ["q8_0", "q4_1", "f32"])
@pytest.mark.parametrize("n", [32, 64, 256, 288])
def test_in_front_of_a_product(matrix: str, n: int, bias: bool) -> None:
    """Zeros follow a vector of floats in shared memory, and neither mean nor bias."""
    b = Builder("product")
    y = layer_norm(b, b.input("x", (1, n)), bias)
    check_fused(b.build(b.matvec(y, b.weight("w", (20, n), matrix)), y))


def test_in_front_of_a_product_of_a_row_of_odd_length() -> None:
    b = Builder("odd")
    y = layer_norm(b, b.input("x", (1, 77)))
    check_fused(b.build(b.matvec(y, b.weight("w", (20, 77), "f32"))))


def test_behind_a_sum_of_parts_that_others_read_too() -> None:
    b = Builder("parts")
    x = b.add_parts(b.input("p", (1, 3 * 96)), b.input("r", (1, 96)))
    check_fused(b.build(b.matvec(layer_norm(b, x), b.weight("w", (20, 96), "q8_0")), x))


def test_the_norm_of_a_norm_and_what_reads_its_elements() -> None:
    b = Builder("twice")
    x = b.rms_norm(b.input("x", (1, 96)), b.weight("i", (96,)), eps=1e-5)
    y = b.layer_norm(x, b.weight("j", (96,)), eps=1e-5)
    y = b.mul(b.silu(layer_norm(b, y)), y)
    check_fused(b.build(b.matvec(y, b.weight("w", (8, 96), "q8_0"))))


def test_a_constant_vector_is_its_bias() -> None:
    b = Builder("constant")
    graph = b.build(layer_norm(b, b.input("x", (1, 96))))
    weights = random_weights(graph)
    given = {"x": np.full((1, 96), 3, np.float32)}
    (found,) = TwinSession(graph, weights, 0).step(**given).values()
    assert distance(found[0], weights["@h"]) < 1e-6


# --- of heads ------------------------------------------------------------------------------------


def of_heads(b: Builder, x: Value, head_dim: int, own: bool, name: str = "g") -> Value:
    gain = b.weight(name, (x.shape[1] if own else head_dim,))
    return b.head_layer_norm(x, gain, eps=1e-5, head_dim=head_dim)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("head_dim", HEADS)
def test_each_head_alone(head_dim: int, own: bool) -> None:
    b, heads = Builder("heads"), 11
    graph = b.build(of_heads(b, b.input("x", (1, heads * head_dim)), head_dim, own))
    weights, given = random_weights(graph), inputs_of(graph)
    given["x"] += np.float32(AWAY)
    (found,) = TwinSession(graph, weights, 0).step(**given).values()
    wanted = normed(given["x"].reshape(heads, head_dim), 1e-5)
    wanted *= weights["@g"].reshape(-1, head_dim)
    assert distance(found.reshape(heads, head_dim), wanted) < 1e-5


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("head_dim", HEADS)
def test_heads_that_the_kernel_makes_itself(head_dim: int, own: bool) -> None:
    b = Builder("inside")
    x = b.silu(b.input("x", (1, 3 * head_dim)))
    check_fused(b.build(of_heads(b, x, head_dim, own)))


def test_an_rms_norm_of_heads_may_have_their_own_weights_too() -> None:
    b = Builder("rms")
    x = b.silu(b.input("x", (1, 48)))
    check_fused(b.build(b.head_norm(x, b.weight("g", (48,)), eps=1e-5, head_dim=16)))


def test_in_front_of_a_rotation_and_the_cache() -> None:
    b = Builder("cache")
    pos = b.input("pos", (1,), "i32")
    turn = {"base": 1e3, "head_dim": 32, "dims": 8, "pairing": "halves"}
    q, k = (b.rope(of_heads(b, b.input(n, (1, 64)), 32, True, f"g{n}"), pos, **turn) for n in "qk")
    b.kv_append(b.state("s", (9, 2, 32), "f16"), k, pos)
    check_fused(b.build(q), position=7)


# --- in steps of many rows -----------------------------------------------------------------------


def product_of_rows(tokens: int, n: int = 96) -> Graph:
    b = Builder("rows")
    y = layer_norm(b, b.input("x", (tokens, n)))
    return b.build(b.matvec(y, b.weight("w", (32, n), "q4_1"), name="y"))


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize(
    ("tokens", "n"), [(2, 96), (3, 96), (5, 96), (16, 96), (2, 2048), (16, 2048)]
)
def test_a_row_of_many_has_its_own_bytes(tokens: int, n: int, level: int) -> None:
    """The matrix lies by rows, and in tiles where they are long."""
    one, many = product_of_rows(1, n), product_of_rows(tokens, n)
    weights = random_weights(one)
    given = inputs_of(many)
    alone = TwinSession(one, weights, level, target=HOPPER)
    wanted = np.concatenate([alone.step(x=row[None])["y"] for row in given["x"]])
    found = TwinSession(many, weights, level, target=HOPPER).step(**given)["y"]
    assert found.tobytes() == wanted.tobytes()


def test_many_rows_are_normed_and_brought_into_fixed_point_by_one_launch() -> None:
    session = TwinSession(product_of_rows(16), random_weights(product_of_rows(16)), 3, (), HOPPER)
    assert [node.kind for node in session.graph.nodes] == ["norm_fix", "matvec"]


@pytest.mark.cuda
@pytest.mark.slow
def test_it_assembles_without_spills() -> None:
    kernels = []
    for n in (96, 2048):
        b = Builder(f"code{n}")
        y = layer_norm(b, b.silu(b.input("x", (1, n))))
        y = of_heads(b, y, 16, own=True, name="of_heads")
        graph = fused(b.build(b.matvec(y, b.weight("w", (64, n), "q8_0"))))
        kernels += TwinSession(graph, random_weights(graph), 0).kernels.values()
    for tokens in (2, 16):
        graph = product_of_rows(tokens)
        session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
        kernels += session.kernels.values()
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx
