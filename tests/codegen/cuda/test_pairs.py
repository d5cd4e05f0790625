"""Long rows of tiles by pairs of blocks, which have half of the columns each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import candidates
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.shape import SPLIT, column_parts, why_not
from fusec.errors import FusecError
from fusec.ir import Builder, Graph
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.one_kernel import distance, inputs_of
from tests.codegen.cuda.twin_session import TwinSession, random_weights, reference
from tests.targets import HOPPER

pytestmark = pytest.mark.slow  # compiles many kernels

PAIRS = Choice(16, paired=True)
SMS = ARCHS["sm_90a"].sms


def with_residual(name: str, rows: int = 32, columns: int = SPLIT) -> Graph:
    b = Builder("matvec")
    y = b.matvec(b.input("x", (1, columns)), b.weight("w", (rows, columns), name))
    return b.build(b.add(y, b.input("residual", (1, rows)), name="y"))


def kernel_of(graph: Graph) -> Kernel:
    plan = lower(run_passes(graph, passes_of(3), HOPPER)[-1].graph, "sm_90a", 3)
    (kernel,) = plan.kernels
    return replace(kernel, overlaps=True)


@pytest.mark.parametrize("name", ["q4_0", "q5_k", "iq4_xs", "nvfp4", "q2_k"])
@pytest.mark.parametrize(
    ("choice", "rows"),
    [(PAIRS, 64), (PAIRS, 16 * 3), (replace(PAIRS, rows_at_once=3, alone=True), 16 * 7)],
    ids=["whole pairs", "a block too few", "several tiles, the last not there"],
)
def test_pairs_make_the_bytes_of_single_blocks(name: str, choice: Choice, rows: int) -> None:
    graph = with_residual(name, rows)
    weights, given = random_weights(graph), inputs_of(graph)
    alone = replace(choice, paired=False)
    single = TwinSession(graph, weights, 3, target=HOPPER, choose=lambda _: alone)
    pairs = TwinSession(graph, weights, 3, target=HOPPER, choose=lambda _: choice)
    assert {k.cluster for k in single.kernels.values()} == {1}
    assert {k.cluster for k in pairs.kernels.values()} == {2}
    assert all(k.grid % 2 == 0 for k in pairs.kernels.values())
    wanted = single.step(**given)["y"]
    assert pairs.step(**given)["y"].tobytes() == wanted.tobytes()
    assert distance(wanted, reference(graph, weights).step(**given)["y"]) < 1e-6


def test_a_pair_refills_its_rings() -> None:
    """More tiles at once than the ring has room for, on a GPU with less of it."""
    graph = with_residual("q5_1", 16 * 6)
    choice = replace(PAIRS, rows_at_once=3)
    kernel = replace(kernel_of(graph), choice=choice)
    assert "copy_async_16_if" in emit(kernel).source.split("griddep_wait")[-1]
    weights, given = random_weights(graph), inputs_of(graph)
    pairs = TwinSession(graph, weights, 3, target=HOPPER, choose=lambda _: choice)
    single = TwinSession(graph, weights, 0, target=HOPPER)
    assert pairs.step(**given)["y"].tobytes() == single.step(**given)["y"].tobytes()


def test_rows_of_which_halves_are_summed_up_apart() -> None:
    def parts(columns: int) -> int:
        (weight,) = with_residual("q4_0", columns=columns).weights
        return column_parts(weight)

    assert [parts(n) for n in (2048, 6144, 8192, 10240, 12288)] == [1, 1, 2, 1, 2]


def test_what_cannot_be_paired_is_refused() -> None:
    def reason(graph: Graph, choice: Choice) -> str:
        return str(why_not(open_region(kernel_of(graph))[1], choice, SMS))

    b = Builder("normed")
    x = b.rms_norm(b.input("x", (1, SPLIT)), b.weight("g", (SPLIT,)), eps=1e-5)
    normed = b.build(b.matvec(x, b.weight("w", (64, SPLIT), "q4_0"), name="y"))
    assert why_not(open_region(kernel_of(with_residual("q4_0")))[1], PAIRS, SMS) is None
    assert "vectors in memory" in reason(normed, PAIRS)
    assert "one step" in reason(with_residual("q4_0"), replace(PAIRS, steps=2))
    assert "for pairs of blocks" in reason(with_residual("q4_0", columns=2048), PAIRS)
    assert "for pairs of blocks" in reason(with_residual("q8_0"), replace(PAIRS, warps=8))


def test_older_gpus_have_no_pairs() -> None:
    kernel = replace(kernel_of(with_residual("q4_0")), choice=PAIRS)
    with pytest.raises(FusecError, match=r"expected a GPU with clusters.*found sm_80"):
        emit(kernel, ARCHS["sm_80"])


def test_a_search_tries_pairs_where_launches_overlap() -> None:
    kernel = kernel_of(with_residual("q4_0"))
    assert {c.paired for c in candidates(kernel)} == {False, True}
    assert not any(c.paired for c in candidates(replace(kernel, overlaps=False)))
    assert "paired" in str(PAIRS)


@pytest.mark.cuda
def test_what_ptxas_makes_of_a_pair() -> None:
    long = [kernel_of(with_residual(name, 2048)) for name in ("q4_k", "iq4_nl")]
    assert [emit(kernel).min_blocks for kernel in long] == [2, 2]
    pairs = [emit(replace(kernel, choice=PAIRS)) for kernel in long]
    assert [kernel.min_blocks for kernel in pairs] == [1, 1]
    for cubin in compile_many(pairs, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".reqnctapercluster 2" in cubin.ptx and "st.async" in cubin.ptx
