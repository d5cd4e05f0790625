"""Parts of a product in clusters: the bytes of separate launches, in every format and size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates, default_of
from fusec.codegen.cuda.columns import Columns
from fusec.codegen.cuda.emit import emit
from fusec.codegen.formats import FORMATS
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.one_kernel import distance, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

TYPES = sorted(name for name, fmt in FORMATS.items() if fmt.quantized)


def network(
    ffn: int, down: str = "iq4_nl", up: str = "iq4_nl", width: int = 64, tokens: int = 1
) -> Graph:
    """A feed-forward network and who reads its sum: two launches at -O3."""
    b = Builder("ffn")
    x = b.input("x", (tokens, width))
    h = b.rms_norm(x, b.weight("g", (width,)), eps=1e-5)
    gate, u = (b.matvec(h, b.weight(name, (ffn, width), up)) for name in ("gate", "up"))
    y = b.matvec(b.mul(b.silu(gate), u), b.weight("w", (width, ffn), down))
    z = b.add(x, y, name="z")
    norm = b.rms_norm(z, b.weight("n", (width,)), eps=1e-5)
    return b.build(b.matvec(norm, b.weight("o", (48, width), up), name="y"), z)


def kernel_of(graph: Graph) -> Kernel:
    plan = overlap(lower(run_passes(graph, passes_of(3), HOPPER)[-1].graph, "sm_90a", 3))
    return next(k for k in plan.kernels if "matvec_parts" in k.region)


def check(graph: Graph, choice: Choice | None = None) -> None:
    """-O3 has the bytes of -O0, near the reference."""
    weights, given = random_weights(graph), inputs_of(graph)
    plain = TwinSession(graph, weights, 0, target=HOPPER)

    def choose(kernel: Kernel) -> Choice | None:
        return choice if "matvec_parts" in kernel.region else None

    deep = TwinSession(graph, weights, 3, target=HOPPER, choose=choose)
    assert len(deep.kernels) == 2
    assert [k.cluster > 1 for k in deep.kernels.values()].count(True) == 1
    one, other = plain.step(**given), deep.step(**given)
    wanted = reference(graph, weights).step(**given)
    for name, value in wanted.items():
        assert one[name].tobytes() == other[name].tobytes(), name
        assert distance(other[name], value) < 2e-6


@pytest.mark.parametrize(
    "ffn", [160, 256, 512, 1024, pytest.param(1472, marks=pytest.mark.slow), 1536]
)
def test_parts_of_any_number_of_blocks(ffn: int) -> None:
    """One round of lanes and two; parts with no element, or no block for some lanes."""
    check(network(ffn))


@pytest.mark.parametrize("down", TYPES)
def test_every_format_of_the_product(down: str) -> None:
    check(network(256, down))


@pytest.mark.parametrize("choice", [Choice(8, 4), Choice(16, 2)], ids=str)
@pytest.mark.parametrize("up", ["q4_0", "q6_k"])
def test_no_choice_changes_a_bit(choice: Choice, up: str) -> None:
    check(network(512, "q4_k", up, width=256), choice)


def test_more_rows_than_lanes() -> None:
    """A cluster's blocks have rows for some of their lanes twice."""
    check(network(256, width=640))


def test_what_is_not_a_number_is_not_hidden() -> None:
    graph = network(256)
    weights, given = random_weights(graph), inputs_of(graph)
    given["x"][0, 5] = np.nan
    found = TwinSession(graph, weights, 3, target=HOPPER).step(**given)
    assert np.isnan(found["z"]).all() and np.isnan(found["y"]).all()


def test_blocks_share_a_parts_columns() -> None:
    columns = Columns(1536, branch=4, each=32)
    assert (columns.rounds, columns.own, columns.ranks, columns.parts) == (2, 8, 8, 8)
    columns = Columns(160, branch=8, each=32)
    assert (columns.rounds, columns.own, columns.ranks, columns.parts) == (1, 8, 8, 1)


def test_default_and_candidates() -> None:
    """Registers that hold the first rows' weights allow fewer rows at once."""
    kernel = kernel_of(network(256))
    assert (default_of(kernel).warps, default_of(kernel).release) == (8, "read")
    assert {(c.warps, c.rows_at_once) for c in candidates(kernel)} == {(8, 4), (16, 2)}
    large = kernel_of(network(256, up="q8_0", width=1024))
    assert [(c.warps, c.rows_at_once) for c in candidates(large)] == [(16, 2)]
    assert default_of(replace(kernel, overlaps=False)).release == "wait"
    for choice in (Choice(8, 2), Choice(16, 2, 2)):
        with pytest.raises(FusecError, match="expected one step, with its weights in registers"):
            emit(replace(kernel, choice=choice))


def test_alone_it_is_no_kernel() -> None:
    b = Builder("g")
    sizes = {"block": 32, "lanes": 32, "branch": 8}
    graph = b.build(b.matvec_parts(b.input("x", (1, 64)), b.weight("w", (8, 64), "q8_0"), **sizes))
    (kernel,) = lower(graph, "sm_90a", 0).kernels
    with pytest.raises(FusecError, match="matvec_parts %1 needs one segment of rows"):
        emit(kernel)


def test_columns_are_dealt_to_the_lanes_of_a_warp() -> None:
    b = Builder("g")
    h = b.matvec(b.input("x", (1, 64)), b.weight("u", (64, 64), "q8_0"))
    w = b.weight("w", (8, 64), "q8_0")
    node = b.build(b.matvec_parts(h, w, block=16, lanes=32, branch=8, name="y")).nodes[-1]
    with pytest.raises(FusecError, match="%y: expected blocks of 32 for 32 lanes, found 16 for 32"):
        Columns.of(node, 32)


def test_the_cpu_target_has_no_kernel_for_it() -> None:
    from fusec.codegen.cpu.emit import emit as emit_for_cpu

    with pytest.raises(FusecError, match="matvec_parts making %1: the CPU target has no"):
        emit_for_cpu(kernel_of(network(256)))


@pytest.mark.cuda
@pytest.mark.slow
def test_kernels_assemble_without_spills() -> None:
    kernels = [
        kernel_of(network(1536, down, up, width=576))
        for down, up in (("iq4_xs", "iq4_nl"), ("q5_k", "iq4_nl"), ("q8_0", "q8_0"))
    ]
    emitted = [emit(replace(k, choice=c)) for k in kernels for c in candidates(k)]
    for cubin in compile_many(emitted, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx and "st.async" in cubin.ptx
        assert ".reqnctapercluster 8" in cubin.ptx
