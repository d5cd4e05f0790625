"""Long rows in tiles of 16: layout, digits, geometry, and what may share a kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen import formats
from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates, default_of
from fusec.codegen.cuda.emit import emit
from fusec.codegen.formats import QuantFormat
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape
from fusec.ir.target import TILES, layouts_apart
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.blocks import random_rows
from tests.codegen.cuda.one_kernel import check_fused, distance, fused, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.targets import AMPERE, ANY, HOPPER, TILED

pytestmark = pytest.mark.slow  # compiles many kernels

FORMATS = sorted(
    name for name, f in formats.FORMATS.items() if isinstance(f, QuantFormat) and f.has_tiles
)
LONG = 2048


def matvec(name: str, rows: int = 32, columns: int = LONG) -> Graph:
    b = Builder("matvec")
    x = b.input("x", (1, columns))
    return b.build(b.matvec(x, b.weight("w", (rows, columns), name), name="y"))


def feed_forward(gate: str = "iq4_xs", up: str = "iq4_xs", rows: int = LONG) -> Graph:
    b = Builder("ffn")
    x = b.input("x", (1, LONG))
    n = b.rms_norm(x, b.weight("g", (LONG,)), eps=1e-5)
    h = b.mul(
        b.silu(b.matvec(n, b.weight("wg", (rows, LONG), gate))),
        b.matvec(n, b.weight("wu", (rows, LONG), up)),
    )
    return b.build(b.add(b.matvec(h, b.weight("wd", (LONG, rows), "q4_k")), x, name="y"))


def kernel_of(graph: Graph, level: int = 0, name: str = "matvec") -> Kernel:
    plan = lower(run_passes(graph, passes_of(level), HOPPER)[-1].graph, "sm_90a", level)
    (kernel,) = (k for k in plan.kernels if k.name.startswith(name))
    return kernel


def test_the_types_of_four_to_seven_bits_are_tiled() -> None:
    wanted = {"q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"}
    assert wanted | {"mxfp4", "nvfp4"} <= set(FORMATS)
    assert "q8_0" not in FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_a_matvec_is_exact_but_for_its_activations(name: str) -> None:
    graph = matvec(name)
    weights, given = random_weights(graph), inputs_of(graph)
    got = TwinSession(graph, weights, 0, target=TILED).step(**given)["y"]
    assert distance(got, reference(graph, weights).step(**given)["y"]) < 1e-6


@pytest.mark.parametrize("name", FORMATS)
def test_an_embedded_row_has_the_bits_of_the_file(name: str) -> None:
    fmt = formats.get(name)
    rows = random_rows(fmt, 32, LONG, seed=4)
    b = Builder("embed")
    graph = b.build(b.embed(b.input("token", (1,), "i32"), b.weight("e", (32, LONG), name)))
    session = TwinSession(graph, {"@e": rows}, 0, target=TILED)
    assert session.memory["@e"].nbytes == fmt.cuda_bytes(32, LONG, TILES)
    for token in (0, 7, 8, 21, 31):
        got = session.step(token=np.array([token]))["0"][0]
        # +0 for -0 where codes of one value share the first
        assert np.array_equal(got + 0.0, fmt.decode(rows)[token] + 0.0)


@pytest.mark.parametrize("name", ["q4_0", "q6_k", "iq4_xs", "mxfp4", "nvfp4", "q2_k"])
def test_every_code_keeps_its_place(name: str) -> None:
    """A vector with a single one picks a column."""
    graph = matvec(name, rows=16)
    weights = random_weights(graph, seed=5)
    session = TwinSession(graph, weights, 0, target=TILED)
    decoded = formats.get(name).decode(weights["@w"])
    for column in (0, 5, 17, 31, 33, 127, 128, 700, 2047):
        x = np.zeros((1, LONG), np.float32)
        x[0, column] = 1
        np.testing.assert_allclose(session.step(x=x)["y"][0], decoded[:, column], rtol=1e-6)


@pytest.mark.parametrize("value", [1.0, -1.0, 1.9999999, -1.9999999, 0.50390625, 1e-30, 1e38, 0.0])
def test_digits_hold_what_is_near_a_power_of_two(value: float) -> None:
    graph = matvec("q4_1", rows=16)
    weights = random_weights(graph)
    blocks = weights["@w"].reshape(16, -1, 20)
    blocks[:] = 0
    blocks[..., :2] = np.array([1], np.float16).view(np.uint8)
    blocks[:, 3, 4 + 7] = 1  # element 96 + 7
    x = np.zeros((1, LONG), np.float32)
    x[0, 96:128], x[0, 103] = value / 3, value
    got = TwinSession(graph, weights, 0, target=TILED).step(x=x)["y"][0]
    assert np.all(np.abs(got - np.float32(value)) <= 2.0**-22 * abs(value))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinity_and_nan_are_not_hidden(bad: float) -> None:
    graph = matvec("q4_0", rows=16)
    x = np.ones((1, LONG), np.float32)
    x[0, 1234] = bad
    got = TwinSession(graph, random_weights(graph), 0, target=TILED).step(x=x)["y"]
    assert np.isnan(got).all()


def test_levels_agree_where_some_blocks_are_alone() -> None:
    graph = feed_forward()
    weights, given = random_weights(graph), inputs_of(graph)
    wanted = reference(graph, weights).step(**given)["y"]
    found = [TwinSession(graph, weights, level, target=HOPPER) for level in (0, 2, 3)]
    results = [session.step(**given)["y"] for session in found]
    assert len({result.tobytes() for result in results}) == 1
    assert distance(results[0], wanted) < 2e-6
    sizes = [k.dynamic for k in found[-1].kernels.values()]
    assert len(sizes) == 2 and min(sizes) < (100 << 10) < max(sizes)


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
def test_pairs_are_turned_where_their_rows_are_made(pairing: str) -> None:
    b = Builder("rope")
    x, pos = b.input("x", (1, LONG)), b.input("pos", (1,), "i32")
    y = b.matvec(x, b.weight("w", (128, LONG), "q5_k"))
    k = b.rope(y, pos, base=1e4, head_dim=64, dims=64, pairing=pairing)
    b.kv_append(b.state("k", (20, 2, 64), "f16"), k, pos)
    check_fused(b.build(k), position=13, target=TILED)


CHOICES = [Choice(16, 1, 1), Choice(16, 3, 2), Choice(16, 2, 4, alone=True)]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("columns", [LONG, 3 * LONG])
def test_no_choice_changes_a_bit(choice: Choice, columns: int) -> None:
    """Rings that turn several times, and blocks whose last tiles there are not."""
    graph = matvec("q4_k", rows=16 * 7, columns=columns)
    weights, given = random_weights(graph), inputs_of(graph)
    wanted = TwinSession(graph, weights, 0, target=TILED).step(**given)["y"]
    session = TwinSession(graph, weights, 0, target=TILED, choose=lambda _: choice)
    assert session.step(**given)["y"].tobytes() == wanted.tobytes()


def test_a_launch_has_a_block_for_every_processor_and_one_of_neighbours_fits_beside() -> None:
    graph = feed_forward()
    arch_bytes = 228 << 10
    plan = lower(run_passes(graph, passes_of(3), HOPPER)[-1].graph, "sm_90a", 3)
    kernels = {k.name.split("_2048")[0]: emit(k) for k in plan.kernels}
    normed, plain = kernels["norm_matvec_silu_mul"], kernels["matvec_add"]
    assert normed.grid == plain.grid == 132
    assert {(k.threads, k.min_blocks, k.registers) for k in (normed, plain)} == {(512, 2, 0)}
    assert 2 * (plain.dynamic + 1024) > arch_bytes - (30 << 10)
    assert normed.dynamic + plain.dynamic + 2048 < arch_bytes


def test_candidates_are_choices_that_an_emitter_takes() -> None:
    kernel = kernel_of(matvec("q4_0"))
    assert {c.alone for c in candidates(kernel)} == {True, False}
    for choice in candidates(kernel):
        assert emit(replace(kernel, choice=choice)).threads == 512
    with pytest.raises(Exception, match="expected 16 warps, found 8"):
        emit(replace(kernel, choice=Choice(8)))


def test_rows_and_tiles_are_not_mixed_in_a_kernel() -> None:
    graph = feed_forward(up="iq3_s", rows=256)
    stages = run_passes(graph, passes_of(3), HOPPER)
    reasons = [r.reason for stage in stages for r in stage.refused]
    assert any("lies in tiles of rows, @wu by rows" in reason for reason in reasons)
    weights, given = random_weights(graph), inputs_of(graph)
    one, other = (TwinSession(graph, weights, n, target=HOPPER).step(**given)["y"] for n in (0, 3))
    assert one.tobytes() == other.tobytes()


def test_a_turn_by_halves_of_other_sizes_stays_apart() -> None:
    b = Builder("rope")
    x, pos = b.input("x", (1, LONG)), b.input("pos", (1,), "i32")
    y = b.matvec(x, b.weight("w", (160, LONG), "q4_0"))
    graph = b.build(b.rope(y, pos, base=1e4, head_dim=80, dims=80, pairing="halves"))
    assert layouts_apart(_shape(matvec("q4_0"))) is None
    assert "by halves" in str(layouts_apart(_shape(fused(graph))))


def _shape(graph: Graph) -> KernelShape:
    (kernel,) = lower(run_passes(graph, passes_of(0), TILED)[-1].graph, "sm_90a", 0).kernels
    return open_region(kernel)[1]


def test_an_older_gpu_has_the_same_bytes_in_less_shared_memory() -> None:
    graph = matvec("q6_k", columns=4 * LONG)
    kernel = kernel_of(graph)
    assert AMPERE.tiles == HOPPER.tiles
    small, large = (emit(kernel, ARCHS[name]) for name in ("sm_89", "sm_90a"))
    assert small.dynamic < large.dynamic


@pytest.mark.cuda
def test_what_ptxas_makes_of_them() -> None:
    """No spills, no doubles, and copies that are asked for in front of the wait."""
    kernel = replace(kernel_of(matvec("iq4_xs", rows=2048), level=3), overlaps=True)
    choices = [default_of(kernel), replace(default_of(kernel), alone=False)]
    for cubin in compile_many([emit(replace(kernel, choice=c)) for c in choices], "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx and "mma.sync.aligned.m16n8k32" in cubin.ptx
        assert cubin.ptx.index("cp.async.cg") < cubin.ptx.index("griddepcontrol.wait")


# --- who decides ---------------------------------------------------------------------------------


def test_a_matrix_goes_by_tiles_where_its_layout_says_so_and_nowhere_else() -> None:
    """Types and shapes are the same; the layout is in the region that a kernel is made of."""
    graph = matvec("q4_k")
    weights, given = random_weights(graph), inputs_of(graph)
    wanted = reference(graph, weights).step(**given)["y"]
    sessions = {t.name: TwinSession(graph, weights, 0, target=t) for t in (ANY, TILED)}
    for session in sessions.values():
        assert distance(session.step(**given)["y"], wanted) < 1e-6
    by_name = {name: "".join(k.source for k in s.kernels.values()) for name, s in sessions.items()}
    assert "tile_product" in by_name["tiled"] and "tile_product" not in by_name["any"]
    assert "w0: @w0: q4_k.tiles[32, 2048]" in by_name["tiled"]
    assert sessions["any"].memory["@w"].nbytes < sessions["tiled"].memory["@w"].nbytes


def test_a_row_is_embedded_from_rows_or_from_tiles() -> None:
    fmt = formats.get("q5_k")
    rows = random_rows(fmt, 32, LONG, seed=4)
    b = Builder("embed")
    graph = b.build(b.embed(b.input("token", (1,), "i32"), b.weight("e", (32, LONG), "q5_k")))
    for target, function in ((ANY, "fetch_q5_k"), (TILED, "gather_q5_k")):
        session = TwinSession(graph, {"@e": rows}, 0, target=target)
        (kernel,) = session.kernels.values()
        assert f"{function}(w0, " in kernel.source
        found = session.step(token=np.array([19]))["0"][0]
        assert np.array_equal(found + 0.0, fmt.decode(rows)[19] + 0.0)


def test_an_emitter_refuses_what_no_pass_would_mix() -> None:
    """However the region came to be: by the layouts that it reads there."""
    b = Builder("mixed")
    x = b.input("x", (1, LONG))
    graph = b.build(*(b.matvec(x, b.weight(t, (32, LONG), t)) for t in ("q4_k", "q8_0")))
    placed = run_passes(fused(graph), passes_of(0), TILED)[-1].graph
    (kernel,) = lower(placed, "sm_90a", 0).kernels
    with pytest.raises(FusecError, match=r"kernel all_\w+: not one kernel: @w0 lies in tiles"):
        emit(kernel)
