"""Emitted kernels, run by the NumPy twins, against the float64 reference and against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from
from numba import njit

from fusec.codegen import formats
from fusec.codegen.cpu.math import exp_f32
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins import Launch
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.plan import Kernel
from fusec.ir.target import Target
from fusec.passes.canonical import canonical
from fusec.passes.pipeline import LEVELS
from tests.codegen.blocks import random_rows
from tests.codegen.cuda.one_kernel import check_fused, distance, fused, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.graphs import Types, llama_graph, random_graphs
from tests.random_numbers import random_numbers
from tests.targets import ANY, HOPPER

RNG = random_numbers(11)
SMALL = {"width": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "layers": 1}
WIDE = {"width": 256, "ffn": 256, "heads": 4, "kv_heads": 1, "layers": 1, "vocab": 24}
ODD = {"width": 42, "ffn": 46, "heads": 7, "kv_heads": 1, "layers": 1}


def with_small_norms(weights: dict) -> dict:
    """The same, but vectors so small that parts of sums stay below 2**22, as those of models do."""
    return {name: w if w.ndim > 1 else w / np.float32(64) for name, w in weights.items()}


def types(matrix: str) -> Types:
    return Types(matrix, unused="f32")  # an empty mapping would count as none given


@njit
def exps_of_cpu(x):
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = exp_f32(x[i])
    return y


# --- whole models --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("matrix", "shape"),
    [
        ("f32", SMALL),
        ("f16", SMALL),
        ("bf16", SMALL),
        ("q8_0", SMALL),
        ("iq4_nl", SMALL),
        ("f16", ODD),
        ("f32", ODD),
        ("q5_k", WIDE),
        ("q6_k", WIDE),
        ("iq4_xs", WIDE),
    ],
)
def test_levels_agree_to_the_byte_and_with_the_reference(matrix: str, shape: dict) -> None:
    graph = llama_graph(types=types(matrix), kv="f32", **shape)
    weights = with_small_norms(random_weights(graph))
    sessions = [TwinSession(graph, weights, level, target=HOPPER) for level in LEVELS]
    checked = reference(graph, weights)
    for position, token in enumerate((5, 17) if shape is not WIDE else (5,)):
        given = {"token": np.array([token]), "pos": np.array([position])}
        results = [session.step(**given) for session in sessions]
        wanted = checked.step(**given)
        assert distance(results[0]["logits"], wanted["logits"]) < 2e-6
        assert results[0]["next"] == wanted["next"]
        for result in results[1:]:
            assert result["logits"].tobytes() == results[0]["logits"].tobytes()
            assert result["next"] == results[0]["next"]


@pytest.mark.slow
def test_a_cache_of_halves_loses_what_halves_lose() -> None:
    graph = llama_graph(**SMALL)
    weights = random_weights(graph)
    sessions = [TwinSession(graph, weights, level, target=HOPPER) for level in (0, 3)]
    checked = reference(graph, weights)
    for position in range(3):
        given = {"token": np.array([position]), "pos": np.array([position])}
        one, other = (session.step(**given)["logits"] for session in sessions)
        assert one.tobytes() == other.tobytes()
        assert distance(one, checked.step(**given)["logits"]) < 5e-3


@pytest.mark.slow
def test_formats_mix_in_one_kernel() -> None:
    matrices = {
        "blk.0.attn_v.weight": "q5_k",
        "blk.0.attn_k.weight": "f16",
        "blk.0.ffn_up.weight": "q6_k",
    }
    graph = llama_graph(types=Types("iq4_xs", **matrices), kv="f32", **WIDE)
    weights = with_small_norms(random_weights(graph))
    given = {"token": np.array([1]), "pos": np.array([0])}
    one, other = (
        TwinSession(graph, weights, level, target=HOPPER).step(**given)["logits"]
        for level in (0, 3)
    )
    assert one.tobytes() == other.tobytes()
    assert distance(one, reference(graph, weights).step(**given)["logits"]) < 2e-6


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=random_graphs(max_nodes=8), target=sampled_from([ANY, HOPPER]))
def test_random_graphs_at_every_level(graph: Graph, target: Target) -> None:
    weights = random_weights(graph)
    given_inputs = inputs_of(graph)
    results = [
        TwinSession(graph, weights, level, target=target).step(**given_inputs) for level in LEVELS
    ]
    wanted = reference(graph, weights).step(**given_inputs)
    for name, value in wanted.items():
        assert np.abs(results[0][name] - value).max() <= 1e-5 * np.abs(value).max() + 1e-12
        assert len({result[name].tobytes() for result in results}) == 1


# --- one kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [7, 30, 64, 200, 1100])
def test_a_norm_of_any_width(width: int) -> None:
    b = Builder("norm")
    x = b.input("x", (1, width))
    check_fused(b.build(b.rms_norm(b.silu(x), b.weight("g", (width,)), eps=1e-5)))


@pytest.mark.parametrize("matrix", ["q8_0", "f32"])
def test_a_prologue_of_several_vectors(matrix: str) -> None:
    b = Builder("deep")
    token, x = b.input("token", (1,), "i32"), b.input("x", (1, 64))
    row = b.embed(token, b.weight("e", (9, 64), "q8_0"))
    mixed = b.mul(b.rms_norm(row, b.weight("g", (64,)), eps=1e-5), b.gelu(x))
    twice = b.rms_norm(
        b.rms_norm(mixed, b.weight("h", (64,)), eps=1e-5), b.weight("i", (64,)), eps=1e-5
    )
    y = b.matvec(twice, b.weight("w", (20, 64), matrix))
    check_fused(b.build(b.softcap(b.add(y, b.weight("bias", (20,))), cap=3.0), twice, row))


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize("dims", [8, 12, 4])
@pytest.mark.parametrize("head_dim", [12, 16])
def test_rotation_where_the_rows_are_made(pairing: str, dims: int, head_dim: int) -> None:
    b = Builder("rows_rope")
    x, pos = b.input("x", (1, 32)), b.input("pos", (1,), "i32")
    y = b.matvec(x, b.weight("w", (2 * head_dim, 32), "iq4_nl"))
    angles = {"base": 1e3, "head_dim": head_dim, "dims": dims, "pairing": pairing}
    k = b.scale(b.rope(y, pos, b.weight("f", (dims // 2,)), **angles), factor=0.25)
    b.kv_append(b.state("k", (20, 2, head_dim), "f16"), k, pos)
    check_fused(b.build(k), position=13)


def test_a_rotated_vector_in_the_prologue() -> None:
    b = Builder("rope_rows")
    x, pos = b.input("x", (1, 64)), b.input("pos", (1,), "i32")
    turned = b.rope(x, pos, base=1e3, head_dim=16, dims=4, pairing="halves")
    check_fused(b.build(b.matvec(turned, b.weight("w", (40, 64), "f16"))), position=5)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "matrix"), [(5000, "q8_0"), (3001, "f32"), (2200, "iq4_nl")])
def test_more_rows_than_warps(rows: int, matrix: str) -> None:
    b = Builder("tall")
    x = b.input("x", (1, 32))
    graph = b.build(b.silu(b.matvec(x, b.weight("w", (rows, 32), matrix))))
    session = TwinSession(graph, random_weights(graph), 0)
    (kernel,) = (k for k in session.kernels.values() if "matvec" in k.name)
    assert kernel.min_blocks == 2 and "row1" in kernel.source
    check_fused(graph)


@pytest.mark.parametrize("columns", [1056, 4640])
def test_long_rows(columns: int) -> None:
    b = Builder("long")
    x = b.input("x", (1, columns))
    y = b.matvec(x, b.weight("w", (9, columns), "q8_0"))
    check_fused(b.build(b.mul(y, b.matvec(x, b.weight("u", (9, columns), "bf16")))))


@pytest.mark.parametrize("count", [1, 33, 512, 9000])
def test_argmax_takes_the_first_of_equals(count: int) -> None:
    b = Builder("choice")
    x = b.input("x", (1, count))
    graph = b.build(b.argmax(x))
    session = TwinSession(graph, {}, 0)
    for values in (
        RNG.integers(-3, 3, count),
        -np.ones(count),
        np.where(np.arange(count) % 2, 0, -0.0),
        np.full(count, -np.inf),
    ):
        assert session.step(x=values)["0"] == np.argmax(values)
    values[: count // 2] = np.nan  # counts as -inf
    assert session.step(x=values)["0"] == 0


@pytest.mark.parametrize("name", sorted(formats.FORMATS))
def test_an_embedded_row_has_the_bits_of_the_file(name: str) -> None:
    """So repacking loses nothing."""
    fmt = formats.get(name)
    rows = random_rows(fmt, 6, 512, seed=4)
    b = Builder("embed")
    graph = b.build(b.embed(b.input("token", (1,), "i32"), b.weight("e", (6, 512), name)))
    session = TwinSession(graph, {"@e": rows}, 0)
    assert session.memory["@e"].nbytes == fmt.cuda_bytes(6, 512)
    for token in range(6):
        got = session.step(token=np.array([token]))["0"][0]
        assert np.array_equal(got.view(np.uint32), fmt.decode(rows)[token].view(np.uint32))


def test_exp_has_the_bits_of_the_cpu_target() -> None:
    x = np.concatenate([np.linspace(-110, 95, 1600), [np.nan, np.inf, -np.inf, 0.0] * 8])
    x, y = x.astype(np.float32), np.zeros(1632, np.float32)
    source = (
        "from fusec.codegen.cuda.device import at, load_f32, store_f32, thread_index\n"
        "from fusec.codegen.cuda.lib.math import exp_f32\n"
        "def exps(x, y):\n"
        "    i = thread_index()\n"
        "    store_f32(at(y, i), exp_f32(load_f32(at(x, i))))\n"
    )
    Launch(1, 1632).run(CudaKernel("exps", source, ("f32*", "f32*"), 1632), x, y)
    assert np.array_equal(y, exps_of_cpu(x), equal_nan=True)


def test_infinity_and_nan_are_not_hidden_by_fixed_point() -> None:
    b = Builder("poison")
    x = b.input("x", (1, 64))
    graph = b.build(b.matvec(x, b.weight("w", (3, 64), "q8_0")))
    session = TwinSession(graph, random_weights(graph), 0)
    for bad in (np.inf, -np.inf, np.nan):
        values = np.ones((1, 64), np.float32)
        values[0, 40] = bad
        assert np.isnan(session.step(x=values)["0"]).all()
    assert not session.step(x=np.zeros((1, 64)))["0"].any()


# --- the source, and refusals --------------------------------------------------------------------


def region_of(graph: Graph) -> Graph:
    return canonical(fused(graph).nodes[0])


def test_a_source_starts_with_its_region_and_binds_its_parameters_in_order() -> None:
    b = Builder("add")
    graph = b.build(b.matvec(b.input("x", (1, 32)), b.weight("w", (9, 32), "iq4_nl")))
    region = region_of(graph)
    kernel = emit(Kernel(region.name, str(region)))
    assert kernel.source.startswith(f'"""{str(region).rstrip()}')
    assert kernel.signature == ("f32*", "u8*", "f32*")
    assert (kernel.name, kernel.threads, kernel.grid) == (region.name, 256, 2)


def test_regions_that_are_no_cuda_kernel_are_refused() -> None:
    b = Builder("two")
    x = b.input("x", (1, 32))
    y = b.matvec(x, b.weight("w", (32, 32), "f32"))
    region = region_of(b.build(b.matvec(y, b.weight("u", (8, 32), "f32"))))
    with pytest.raises(FusecError, match=r"kernel two: matvec .* needs all of"):
        emit(Kernel("two", str(region)))
    b = Builder("several")
    region = region_of(b.build(b.silu(b.input("x", (1, 32)))))
    several = replace(region, inputs=tuple(replace(v, shape=(2, 32)) for v in region.inputs))
    with pytest.raises(FusecError, match="expected a canonical region, of one row"):
        emit(Kernel("several", str(several)))
    b = Builder("huge")
    w = b.weight("w", (1 << 26, 32), "f32")
    region = region_of(b.build(b.embed(b.input("token", (1,), "i32"), w)))
    with pytest.raises(FusecError, match=r"weight f32\[67108864, 32\] is too large"):
        emit(Kernel("huge", str(region)))
