"""Products for many rows of a step: each row has the bytes that it has in a step of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fusec import backends
from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.gemm import is_gemm
from fusec.codegen.cuda.rows import rows_of_block
from fusec.codegen.cuda.tilings import (
    DEEP,
    FLAT,
    LARGE,
    MEDIUM,
    NARROW,
    OF_ROWS,
    OF_TILES,
    SLIM,
    TALL,
    WIDE,
)
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.target import Target
from fusec.ir.text import parse
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.one_kernel import fused
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.targets import FEW, HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

SHARED, SMS = 228 << 10, 132
ONCE = replace(HOPPER, own_fixed_to=0)
anywhere = pytest.mark.parametrize("target", [ONCE, HOPPER], ids=["made-once", "by-each-block"])
"""Where a step's vectors are brought into fixed point, if it has few rows."""


def product(tokens: int, name: str, columns: int, rows: int = 16) -> Graph:
    b = Builder("product")
    x = b.input("x", (tokens, columns))
    return b.build(b.matvec(x, b.weight("w", (rows, columns), name), name="y"))


def gated(tokens: int, name: str, columns: int, rows: int) -> Graph:
    """A norm, two matrices, and what is added at the end."""
    b = Builder("gated")
    x, r = b.input("x", (tokens, columns)), b.input("r", (tokens, rows))
    n = b.rms_norm(x, b.weight("g", (columns,)), eps=1e-5)
    gate = b.silu(b.matvec(n, b.weight("wg", (rows, columns), name)))
    h = b.mul(gate, b.matvec(n, b.weight("wu", (rows, columns), name)))
    return b.build(b.add(h, r, name="y"))


def stacked(tokens: int, *names: str) -> Graph:
    """Matrices of several formats that read one vector, in one kernel."""
    b = Builder("stacked")
    x = b.input("x", (tokens, 256))
    return b.build(*(b.matvec(x, b.weight(f"w{name}", (64, 256), name)) for name in names))


def turned(tokens: int, pairing: str) -> Graph:
    b = Builder("turned")
    x, pos = b.input("x", (tokens, 2048)), b.input("pos", (tokens,), "i32")
    y = b.matvec(x, b.weight("w", (128, 2048), "q5_k"))
    return b.build(b.rope(y, pos, base=1e4, head_dim=64, dims=64, pairing=pairing, name="y"))


def vectors(rows: int, columns: int) -> np.ndarray:
    """Blocks of other magnitudes, so that another order has other bits; and what is special."""
    rng = np.random.default_rng(columns + rows)
    magnitudes = np.repeat(2.0 ** rng.integers(-3, 4, -(-columns // 32)), 32)
    x = rng.normal(size=(rows, columns)) * magnitudes[:columns]
    x[0], x[-1] = 0.0, x[-1] * 1e-30
    x[1, : columns // 2] = -0.0
    return x.astype(np.float32)


def given(graph: Graph, rows: int) -> dict[str, np.ndarray]:
    """Inputs of so many rows."""
    places = np.arange(rows) + 3
    return {
        v.name[1:]: places if v.dtype == "i32" else vectors(rows, v.shape[1]) for v in graph.inputs
    }


def check(
    make: Callable[[int], Graph],
    there: int,
    tokens: int,
    kind: str,
    target: Target = HOPPER,
    level: int = 3,
) -> None:
    """Steps of `there` rows, of up to `tokens`, and of one row agree; other rows are left alone."""
    one, many = make(1), make(tokens)
    weights, inputs = random_weights(one), given(one, there)
    alone = TwinSession(one, weights, level, target=HOPPER)
    steps = ({name: x[k : k + 1] for name, x in inputs.items()} for k in range(there))
    wanted = np.concatenate([alone.step(**step)["y"] for step in steps])
    session = TwinSession(many, weights, level, target=target)
    assert any(f"{kind}[" in kernel.source for kernel in session.kernels.values())
    session.memory["rows"][:] = there
    padded = {name: np.resize(x, (tokens, *x.shape[1:])) for name, x in inputs.items()}
    found = session.step(**padded)["y"]
    assert np.isfinite(wanted).all() and wanted[1:].any(axis=1).all()
    assert found[:there].tobytes() == wanted.tobytes()
    assert np.isnan(found[there:]).all(), "rows behind the end are written"


# one scale for 32 or for 16, minima or none, every kind of planes, and levels in two terms
KINDS = ["q4_k", "q4_0", "q4_1", "iq4_xs", "iq4_nl", "q5_k", "q6_k", "q3_k", "q2_k", "nvfp4"]


@anywhere
@pytest.mark.parametrize("name", KINDS)
def test_tiles(name: str, target: Target) -> None:
    """A narrow tile that is partly filled."""
    check(lambda tokens: product(tokens, name, 2048), 11, 12, "fixed23", target)


def test_several_layers_of_tiles() -> None:
    """And a matrix whose rows do not fill a tile."""
    check(lambda tokens: product(tokens, "q4_k", 2048, rows=48), 35, 40, "fixed23")


@pytest.mark.parametrize(
    ("width", "name", "columns", "kind"),
    [
        (WIDE, "q4_1", 1536, "fixed24"),
        (WIDE, "q4_k", 2048, "fixed23"),
        (MEDIUM, "q4_k", 2048, "fixed23"),
    ],
)
def test_tiles_of_long_steps(width: int, name: str, columns: int, kind: str, monkeypatch) -> None:
    """The last layer is partly filled, and so is the last tile of rows of the matrix."""
    monkeypatch.setattr("fusec.codegen.cuda.rows.tile_rows", lambda *_: width)
    check(lambda tokens: product(tokens, name, columns, rows=48), 33, 40, kind)


@anywhere
def test_two_chunks_a_warp(target: Target) -> None:
    """A slab has one leaf."""
    check(lambda tokens: product(tokens, "q4_k", 4096), 5, 12, "fixed23", target)


@pytest.mark.parametrize(
    ("name", "columns", "there", "tokens"),
    [
        ("q4_k", 8192, 2, 33),  # two halves; a leaf has two slabs
        ("q2_k", 8192, 2, 33),
        ("q6_k", 8192, 5, 12),
        ("q4_k", 14336, 3, 12),  # seven chunks a warp, and as many slabs
    ],
)
def test_rows_too_long_for_a_block_to_have_its_own(
    name: str, columns: int, there: int, tokens: int
) -> None:
    check(lambda t: product(t, name, columns), there, tokens, "fixed23")


@anywhere
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("iq4_nl", 576),  # 18 blocks: some leaves have none
        ("q6_k", 768),
        ("q2_k", 256),
        ("q8_0", 4640),  # a leaf has two slabs, not all of whose blocks there are
    ],
)
def test_rows(name: str, columns: int, target: Target) -> None:
    check(lambda tokens: product(tokens, name, columns), 11, 12, "fixed24", target)


@pytest.mark.parametrize(
    ("name", "columns", "there"),
    [("q4_k", 1536, 35), ("q4_1", 320, 33), ("q8_0", 4096, 5)],  # of the last a leaf has a slab
)
def test_rows_of_long_steps(name: str, columns: int, there: int) -> None:
    check(lambda tokens: product(tokens, name, columns), there, 40, "fixed24")


@pytest.mark.parametrize(("name", "kind"), [("q4_k", "fixed23"), ("q8_0", "fixed24")])
def test_one_row_and_all_rows(name: str, kind: str) -> None:
    for there in (2, 12):
        check(lambda tokens: product(tokens, name, 2048), there, 12, kind)


@anywhere
@pytest.mark.parametrize("level", [0, 3])
def test_a_norm_two_matrices_and_what_is_added(level: int, target: Target) -> None:
    check(lambda tokens: gated(tokens, "iq4_xs", 2048, 48), 4, 12, "fixed23", target, level)


@pytest.mark.parametrize("rows", [384, 448, 1088])
def test_few_and_many_rows_of_matrices_behind_a_norm(rows: int) -> None:
    """A block takes them by many warps, by some, and a tile of many."""
    check(lambda tokens: gated(tokens, "q4_1", 96, rows), 11, 16, "fixed24")


@pytest.mark.parametrize(
    ("pairing", "target"), [("adjacent", HOPPER), ("halves", ONCE), ("halves", HOPPER)]
)
def test_pairs_are_turned(pairing: str, target: Target) -> None:
    check(lambda tokens: turned(tokens, pairing), 10, 12, "fixed23", target)


@anywhere
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_infinity_and_nan_stay_in_their_row(bad: float, target: Target) -> None:
    graph = product(12, "q4_k", 2048)
    x = np.ones((12, 2048), np.float32)
    x[5, 1234] = bad
    got = TwinSession(graph, random_weights(graph), 3, target=target).step(x=x)["y"]
    assert np.isnan(got).any(axis=1).tolist() == [row == 5 for row in range(12)]
    assert np.isnan(got[5]).all()


def gemms(graph: Graph, level: int = 3) -> list[CudaKernel]:
    """The kernels of products for many rows."""
    placed = run_passes(graph, passes_of(level), HOPPER)[-1].graph
    plan = lower(placed, "sm_90a", level, partial(rows_of_block, shared=SHARED, sms=SMS))
    kernels = [replace(k, overlaps=True) for k in plan.kernels if is_gemm(parse(k.region))]
    assert kernels
    return [emit(kernel) for kernel in kernels]


def test_every_width_has_a_way_to_share_a_tile_out() -> None:
    assert {tiling.width for tiling in (DEEP, FLAT, TALL)} == {SLIM}
    assert {width: tiling.width for width, tiling in LARGE.items()} == {n: n for n in LARGE}
    for tilings in (OF_ROWS, OF_TILES):
        assert set(tilings) == {WIDE, MEDIUM, NARROW, SLIM}
        for width, ways in tilings.items():
            assert {tiling.width for tiling in ways} == {width}


@pytest.mark.parametrize("arch", ARCHS.values(), ids=lambda arch: arch.name)
@pytest.mark.parametrize(("matrix", "columns"), [("q2_k", 8192), ("q8_0", 14336), ("q4_k", 14336)])
def test_a_block_has_the_memory_it_needs(arch: Arch, matrix: str, columns: int) -> None:
    """On GPUs with little shared memory, another tiling is taken."""
    for tokens in (16, 512):
        graph = run_passes(product(tokens, matrix, columns, rows=2048), passes_of(3), HOPPER)[-1]
        rows = partial(rows_of_block, shared=arch.shared, sms=arch.sms)
        plan = lower(graph.graph, arch.name, 3, rows)
        for kernel in plan.kernels:
            made = emit(kernel, arch)
            assert made.dynamic + made.shared <= arch.block_shared


@pytest.mark.parametrize("arch", ARCHS.values(), ids=lambda arch: arch.name)
@pytest.mark.parametrize("matrix", ["q2_k", "q4_0"])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_a_block_has_room_for_the_longest_vectors_of_its_own(
    arch: Arch, matrix: str, share: float
) -> None:
    """With matrices of that share of the rows that they may have at most."""
    never = replace(FEW, least=1 << 20)
    target = replace(backends.get(arch.name).limits, gpu=None, tiles=never)
    rows = int(share * target.own_fixed_rows / 2) // 16 * 16
    columns = 32 * target.own(16).blocks // 256 * 256
    graph = gated(16, matrix, columns, rows)
    found = run_passes(graph, passes_of(3), target)[-1].graph
    plan = lower(found, arch.name, 3, partial(rows_of_block, shared=arch.shared, sms=arch.sms))
    (kernel,) = [k for k in plan.kernels if is_gemm(parse(k.region))]
    assert kernel.name.startswith("norm_fix_matvec")
    made = emit(kernel, arch)
    assert made.dynamic + made.shared <= arch.block_shared


def test_what_fits_no_block_is_refused() -> None:
    graph = run_passes(product(512, "q2_k", 8192, rows=2048), passes_of(3), HOPPER)[-1].graph
    plan = lower(graph, "none", 3, partial(rows_of_block, shared=SHARED, sms=SMS))
    tiny = replace(ARCHS["sm_89"], shared=32 << 10)
    (kernel,) = [k for k in plan.kernels if is_gemm(parse(k.region))]
    with pytest.raises(FusecError, match=r"at most 31,744 bytes of shared memory on sm_89, found"):
        emit(kernel, tiny)


@pytest.mark.parametrize("columns", [2048, 8192, 28672])
def test_two_blocks_fit_a_multiprocessor(columns: int) -> None:
    for tokens in (16, 512):
        for kernel in gemms(product(tokens, "q4_k", columns, rows=2048)):
            assert 2 * (kernel.dynamic + 1024) <= SHARED - 1024


def test_what_tiles_combine_is_of_one_type() -> None:
    b = Builder("pair")
    x = b.input("x", (1, 256), "fixed24")
    one, other = (b.matvec(x, b.weight(name, (32, 256), name)) for name in ("q4_k", "q5_k"))
    (kernel,) = lower(fused(b.build(b.mul(b.silu(one), other))), "sm_90a", 0).kernels
    with pytest.raises(FusecError, match="found q4_k times %0 and q5_k times %0"):
        emit(replace(kernel, rows=16))


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize("tokens", [16, 512])
def test_they_assemble_without_spills(tokens: int) -> None:
    graphs = [product(tokens, "q2_k", 8192, rows=2048), gated(tokens, "q4_k", 512, 1536)]
    graphs += [stacked(tokens, "q4_k", "iq4_xs", "q6_k")]
    kernels = {k.name: k for graph in graphs for k in gemms(graph)}
    for cubin in compile_many(list(kernels.values()), "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx and "mma.sync.aligned.m16n8k" in cubin.ptx, cubin.name
