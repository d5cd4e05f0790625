"""Parts of a product for several rows of a step: each row has the bytes of the kernel for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.panels import Panel
from fusec.codegen.cuda.parts_sizes import EXCHANGED, TEAMS, takes_rows
from fusec.codegen.cuda.rows import INTERLEAVING
from fusec.codegen.formats import FORMATS, QuantFormat
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from tests.codegen.cuda.test_matvec_parts import TYPES, kernel_of, network
from tests.codegen.cuda.twin_session import TwinSession, random_weights
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

SHARED = ARCHS["sm_90a"].shared


def check(
    make: Callable[[int], Graph],
    tokens: int,
    rows: int,
    choice: Choice | None = None,
    on_tensor_cores: bool = True,
) -> str:
    """A step of so many rows, of which some are there; returns the source of the kernel."""

    def choose(kernel: Kernel) -> Choice | None:
        return choice if "matvec_parts" in kernel.region and kernel.rows else None

    one, several = make(1), make(tokens)
    weights, rng = random_weights(one), np.random.default_rng(7)
    given = {
        v.name[1:]: rng.integers(0, 40, tokens)
        if v.dtype == "i32"
        else rng.normal(size=v.shape).astype(np.float32)
        for v in several.inputs
    }
    single = TwinSession(one, weights, 3, target=HOPPER)
    wanted = [single.step(**{k: v[r : r + 1] for k, v in given.items()}) for r in range(rows)]
    session = TwinSession(several, weights, 3, target=HOPPER, choose=choose)
    session.memory["rows"][:] = rows
    for name, found in session.step(**given).items():
        assert found[:rows].tobytes() == np.concatenate([w[name] for w in wanted]).tobytes(), name
        assert np.isnan(found[rows:]).all()
    (kernel,) = (k for k in session.kernels.values() if k.cluster > 1)
    assert kernel.rows >= tokens
    assert ("store_four" in kernel.source) == on_tensor_cores
    return kernel.source


def from_tokens(tokens: int) -> Graph:
    """A network whose kernel reads an embedding, which it also keeps for the residual."""
    b = Builder("ffn")
    x = b.embed(b.input("token", (tokens,), "i32"), b.weight("e", (40, 64), "q8_0"))
    h = b.rms_norm(x, b.weight("g", (64,)), eps=1e-5)
    up = b.gelu(b.matvec(h, b.weight("up", (256, 64), "q4_1")))
    z = b.add(x, b.matvec(up, b.weight("w", (64, 256), "q8_0")), name="z")
    norm = b.rms_norm(z, b.weight("n", (64,)), eps=1e-5)
    return b.build(b.matvec(norm, b.weight("o", (48, 64), "q8_0"), name="y"), z)


def mixed(tokens: int, layer_norm: bool = False) -> Graph:
    """Matrices of two types, a bias, and an activation that is read element by element."""
    b = Builder("ffn")
    x, other = b.input("x", (tokens, 64)), b.input("other", (tokens, 256))
    gain = b.weight("g", (64,))
    h = b.layer_norm(x, gain, eps=1e-5) if layer_norm else b.rms_norm(x, gain, eps=1e-5)
    gate = b.add(b.matvec(h, b.weight("gate", (256, 64), "q4_1")), b.weight("b", (256,)))
    up = b.mul(b.matvec(h, b.weight("up", (256, 64), "q8_0")), other)
    z = b.add(x, b.matvec(b.mul(b.silu(gate), up), b.weight("w", (64, 256), "q5_0")), name="z")
    norm = b.rms_norm(z, b.weight("n", (64,)), eps=1e-5)
    return b.build(b.matvec(norm, b.weight("o", (48, 64), "q8_0"), name="y"), z)


@pytest.mark.parametrize(("tokens", "rows"), [(2, 1), (2, 2), (4, 3), (8, 5), (8, 8)])
def test_rows_that_are_there(tokens: int, rows: int) -> None:
    check(lambda t: network(256, tokens=t), tokens, rows)


@pytest.mark.parametrize("down", TYPES[::2])
def test_formats_of_the_product(down: str) -> None:
    """Every other one: all are in test_matvec_parts.py, and those left out in the test below."""
    check(lambda t: network(256, down, tokens=t), 2, 2)


@pytest.mark.parametrize("up", TYPES[1::2])
def test_formats_of_the_first_matrices(up: str) -> None:
    check(lambda t: network(160, "q8_0", up, width=256, tokens=t), 4, 4)


@pytest.mark.parametrize(
    ("ffn", "choice"),
    [(160, Choice(8, 4)), (512, Choice(16, 2)), (1472, Choice(16, 2)), (1536, Choice(8, 4))],
    ids=str,
)
def test_parts_of_any_number_of_blocks(ffn: int, choice: Choice) -> None:
    """Elements behind the last one, two rounds of lanes, warps without a unit."""
    check(lambda t: network(ffn, "q5_1", width=96, tokens=t), 2, 2, choice)


def test_more_rows_of_the_next_matrix() -> None:
    """Shares that are no whole fragments."""
    check(lambda t: network(256, width=672, tokens=t), 2, 2)


@pytest.mark.parametrize(("tokens", "rows"), [(4, 3), (8, 6)])
def test_matrices_of_two_types_and_what_their_elements_read(tokens: int, rows: int) -> None:
    check(mixed, tokens, rows)


@pytest.mark.parametrize("tokens", [2, 8])
def test_a_norm_that_all_threads_make(tokens: int) -> None:
    """There are no teams for it, so each block makes it for a row."""
    source = check(partial(mixed, layer_norm=True), tokens, tokens)
    assert "store_block" in source


def test_either_way_for_as_many_rows() -> None:
    for way, line in ((EXCHANGED, "store_block("), (TEAMS, "store_record_fixed24(")):
        for tokens in (2, 4, 8):
            make, choice = partial(network, 256, width=192), Choice(8, 4, way=way)
            assert line in check(lambda t, make=make: make(tokens=t), tokens, tokens - 1, choice)


@pytest.mark.parametrize("tokens", [2, 8])
def test_an_embedding_that_is_kept(tokens: int) -> None:
    check(from_tokens, tokens, tokens - 1)


# --- sizes and refusals --------------------------------------------------------------------------


def test_what_does_not_fit_has_fewer_rows_or_statements_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ways(most: int) -> Callable[..., tuple[str, ...]]:
        return lambda _shape, rows, _shared: (TEAMS,) if 1 < rows <= most else ()

    for most, rows in ((8, 8), (4, 4), (2, 2), (1, 4)):
        for module in ("parts_sizes", "rows"):
            monkeypatch.setattr(f"fusec.codegen.cuda.{module}.ways", ways(most))
        graph = mixed(8)
        session = TwinSession(graph, random_weights(graph), 3, target=HOPPER)
        (kernel,) = (k for k in session.kernels.values() if k.cluster > 1)
        assert kernel.rows == rows
        assert ("store_four" in kernel.source) == (most > 1)


@pytest.mark.parametrize("tokens", [2, 3])
def test_statements_for_each_row(tokens: int) -> None:
    choice = Choice(8, 4, way=INTERLEAVING)
    check(lambda t: network(256, tokens=t), tokens, tokens, choice, on_tensor_cores=False)


@pytest.mark.parametrize(
    ("way", "rows", "found"),
    [
        (EXCHANGED, 1, "expected rows one by one, found 1 rows exchanged"),
        (INTERLEAVING, 0, "expected rows one by one, found 0 rows interleaved"),
        (EXCHANGED, 16, "expected rows interleaved, found 16 rows exchanged"),
    ],
)
def test_ways_that_there_are_not(way: str, rows: int, found: str) -> None:
    kernel = replace(kernel_of(network(256)), rows=rows, choice=Choice(8, 4, way=way))
    with pytest.raises(FusecError, match=f"kernel {kernel.name}: {found}"):
        emit(kernel)


def test_rows_are_a_power_of_two_up_to_eight_that_fit() -> None:
    shape = open_region(kernel_of(network(1536, width=576)))[1]
    assert [n for n in range(20) if takes_rows(shape, n, SHARED)] == [2, 4, 8]
    small = ARCHS["sm_120a"].shared
    assert not any(takes_rows(shape, n, small) for n in (2, 4, 8))


@pytest.mark.parametrize("warps", [8, 16])
@pytest.mark.parametrize(("rows", "leaves", "turns"), [(64, 18, 1), (80, 4, 2), (32, 3, 1)])
def test_units_are_all_leaves_of_all_tiles(rows: int, leaves: int, turns: int, warps: int) -> None:
    fmt = FORMATS["q4_0"]
    assert isinstance(fmt, QuantFormat)
    panel = Panel(fmt, rows, leaves, turns, warps)
    assert sum(map(panel.leaves_of, range(panel.units))) == leaves * panel.tiles
    assert panel.branch & (panel.branch - 1) == 0


def test_warps_have_equal_shares_of_what_is_large() -> None:
    fmt = FORMATS["q4_0"]
    assert isinstance(fmt, QuantFormat)
    assert Panel(fmt, 64, 18, 1, 8).branch == 8  # ten blocks at most, and three sums to add up
    assert Panel(fmt, 64, 32, 1, 16).branch == 8


@pytest.mark.cuda
def test_kernels_assemble_without_spills() -> None:
    """Two blocks find room on an SM."""
    first, *others = (
        kernel_of(network(1536, down, up, width=576))
        for down, up in (("iq4_xs", "iq4_nl"), ("q5_k", "iq4_nl"), ("q8_0", "q8_0"))
    )
    emitted = [
        emit(replace(k, name=f"{k.name}_{n}", region=k.region.replace(k.name, f"{k.name}_{n}"),
                     choice=c, rows=n))
        for k, chosen, counts in (
            (first, candidates(first), (2, 4, 8)),
            *((k, candidates(k)[:1], (8,)) for k in others),
        )
        for c in chosen for n in counts
    ]  # fmt: skip
    for kernel, cubin in zip(emitted, compile_many(emitted, "sm_90a"), strict=True):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx and "mma.sync" in cubin.ptx and "st.async" in cubin.ptx
        assert kernel.dynamic <= ARCHS["sm_90a"].room
