"""Attention of several rows in a block: each row has the bytes that it has alone in a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.attention_sizes import Sizes, fits
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.shape import SPAN
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_grid import run_grid
from fusec.codegen.cuda.twins_memory import Memory
from fusec.errors import FusecError
from fusec.ir import Graph
from fusec.ir.plan import Kernel
from fusec.passes.lower import lower
from tests.codegen.cuda import paged
from tests.codegen.cuda.test_attention import graph_of
from tests.random_numbers import random_numbers

pytestmark = pytest.mark.slow  # compiles many kernels

RNG = random_numbers(17)
HOPPER = ARCHS["sm_90a"]
UNTOUCHED = np.float32(77)


def kernel_of(graph: Graph, rows: int, overlaps: bool = False) -> Kernel:
    (kernel,) = lower(graph, "cuda", 0).kernels
    return replace(kernel, rows=rows, overlaps=overlaps)


class Case:
    """Caches up to the last of the positions that rows have, behind it what nobody may read."""

    def __init__(self, graph: Graph, places: list[int]) -> None:
        self.graph, self.places = graph, np.array(places, np.uint32)
        self.caches = []
        for state in graph.states:
            values = np.full(state.shape, np.nan, np.float16 if state.dtype == "f16" else "f4")
            known = (max(places) + 1, *state.shape[1:])
            values[: known[0]] = RNG.normal(size=known)
            self.caches.append(values)
        self.q = RNG.normal(size=(len(places), graph.inputs[0].shape[1])).astype(np.float32)

    def arguments(self, rows: slice) -> tuple[list[np.ndarray], np.ndarray]:
        caches, table = map(paged.memory, self.caches), paged.table(len(self.caches[0]))
        out = np.full((max(1, len(self.places)) + 3, self.q.shape[1]), UNTOUCHED)
        return [self.q[rows].copy(), *caches, self.places[rows].copy(), out, table], out

    def one_by_one(self) -> np.ndarray:
        """By the kernel for one row."""
        kernel, found = emit(kernel_of(self.graph, 0)), []
        for row in range(len(self.places)):
            given, out = self.arguments(slice(row, row + 1))
            run_grid(kernel, *given)
            found.append(out[0])
        return np.array(found)

    def together(self, kernel: CudaKernel, spare: int = 0) -> np.ndarray:
        """`spare`: layers of the grid that the step has no rows for."""
        given, out = self.arguments(slice(None))
        count = len(self.places)
        layers = -(-count // kernel.rows) + spare
        run_grid(kernel, *given, np.array([count], np.uint32), layers=layers)
        assert (out[count:] == UNTOUCHED).all()
        return out[:count]


def check(
    graph: Graph, places: list[int], rows: int = 16, arch: Arch = HOPPER, overlaps: bool = False
) -> None:
    case = Case(graph, places)
    found = case.together(emit(kernel_of(graph, rows, overlaps), arch))
    assert np.isfinite(found).all()
    assert found.tobytes() == case.one_by_one().tobytes()


MIDDLE = list(range(500, 518))  # of a context, and across the end of a span


@pytest.mark.parametrize("rows", [8, 16, 24, 32, 64])
def test_rows_of_the_middle_of_a_context(rows: int) -> None:
    check(graph_of(64, "f16", 600, 2, 1), MIDDLE, rows)


@pytest.mark.parametrize(
    ("head_dim", "kv"),
    [
        *((2, "f16"), (8, "f32"), (18, "f16"), (80, "f32")),
        *((128, "f16"), (250, "f32"), (256, "f16"), (256, "f32")),
    ],
)
def test_heads_of_any_even_size(head_dim: int, kv: str) -> None:
    """Of few rows, across the end of a span; the last block has two."""
    graph = graph_of(head_dim, kv, 300, 1, 1)
    rows = 16 if fits(graph.nodes[0], 16, HOPPER.shared) else 8
    check(graph, [*range(250, 267), 20], rows)


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2)])
def test_heads_that_share_keys(heads: int, kv_heads: int) -> None:
    check(graph_of(8, "f32", 64, heads, kv_heads), list(range(20)))


@pytest.mark.parametrize("places", [[0], [599], [255, 256], [15, 16, 17, 63, 64]])
def test_few_rows(places: list[int]) -> None:
    check(graph_of(16, "f16", 600, 1, 1), places)


def test_rows_in_no_order() -> None:
    check(graph_of(16, "f16", 600, 1, 1), [int(n) for n in RNG.integers(0, 600, 21)])


@pytest.mark.parametrize(
    ("head_dim", "kv", "rows"), [(64, "f16", 16), (128, "f16", 16), (64, "f32", 8)]
)
def test_tiles_of_less_than_a_span(head_dim: int, kv: str, rows: int) -> None:
    """Where an SM has less shared memory."""
    small = ARCHS["sm_120a"]
    tiles = Sizes(head_dim, 2 if kv == "f16" else 4, rows).tiles(small.shared)
    assert tiles is not None and tiles[1] < SPAN
    check(graph_of(head_dim, kv, 600, 1, 1), MIDDLE, rows, small)


@pytest.mark.parametrize("positions", [128, 64, 32])
def test_any_tile_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    monkeypatch.setattr(Sizes, "tiles", lambda *_: (max(positions, 64), positions))
    check(graph_of(250, "f16", 600, 1, 1), [*range(285, 290), 300, 517], 8)


def test_layers_without_rows_do_nothing() -> None:
    case = Case(graph_of(8, "f16", 64, 2, 1), [3, 4, 5])
    kernel = emit(kernel_of(case.graph, 16))
    assert case.together(kernel, spare=2).tobytes() == case.one_by_one().tobytes()


@pytest.mark.parametrize("head_dim", [18, 64])
def test_what_shared_memory_held_before_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, head_dim: int
) -> None:
    """Were it NaN, then no factor of 0 would hide it."""
    reserve = Memory._shared_bytes

    def nan(memory: Memory, count: int) -> np.ndarray:
        start = reserve(memory, count)
        memory.shared[:, int(start.flat[0]) :] = 0xFF
        return start

    monkeypatch.setattr(Memory, "_shared_bytes", nan)
    check(graph_of(head_dim, "f16", 300, 1, 1), [5, 17, 40])


def test_scores_so_far_apart_that_weights_vanish() -> None:
    case = Case(graph_of(16, "f32", 600, 1, 1), list(range(560, 570)))
    case.q *= np.float32(3e3)
    assert case.together(emit(kernel_of(case.graph, 16))).tobytes() == case.one_by_one().tobytes()


@pytest.mark.parametrize(("bad", "cache"), [(np.nan, 0), (np.nan, 1), (np.inf, 1)])
@pytest.mark.parametrize("place", [10, 34, 47])
def test_what_is_not_finite_reaches_rows_behind_it_alone(
    bad: float, cache: int, place: int
) -> None:
    """A row that is too early for it does not even multiply it by 0."""
    case = Case(graph_of(10, "f32", 96, 1, 1), list(range(33, 67)))
    case.caches[cache] = np.nan_to_num(case.caches[cache], nan=7)
    case.caches[cache][place, 0, 3] = bad
    found, wanted = case.together(emit(kernel_of(case.graph, 32))), case.one_by_one()
    assert np.array_equal(found, wanted, equal_nan=True)
    early = case.places < place
    assert np.isfinite(found[early]).all()
    assert not np.isfinite(found[~early]).all(axis=1).any()


@pytest.mark.parametrize("head_dim", [8, 18])
def test_caches_and_queries_are_read_behind_the_wait(head_dim: int) -> None:
    """Rows of this step were appended by the launch in front."""
    graph = graph_of(head_dim, "f16", 64, 1, 1)
    kernel = emit(kernel_of(graph, 16, overlaps=True))
    before, _ = kernel.source.split("griddep_wait()")
    body = before[before.index("def ") :]
    assert "store_ends(" in body and "copy_" not in body and "store_queries(" not in body
    check(graph, list(range(20, 40)), overlaps=True)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head_dim", "kv", "rows", "fit"),
    [
        (64, "f16", 16, True),
        (64, "f16", 12, False),
        (64, "f16", 72, False),
        (258, "f16", 16, False),
        (7, "f16", 16, False),
        (256, "f32", 64, False),
    ],
)
def test_what_fits(head_dim: int, kv: str, rows: int, fit: bool) -> None:
    (node,) = graph_of(head_dim, kv, 64, 1, 1).nodes
    assert fits(node, rows, HOPPER.shared) is fit


def test_smaller_sms_take_fewer_rows() -> None:
    (node,) = graph_of(256, "f16", 64, 1, 1).nodes
    assert fits(node, 16, HOPPER.shared) and not fits(node, 16)


def test_rows_that_no_block_takes_are_refused() -> None:
    with pytest.raises(FusecError, match="no block takes 12 rows of attention at once"):
        emit(kernel_of(graph_of(8, "f16", 8), 12))


# --- compiled ------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120a"])
def test_blocks_of_rows_assemble_without_spills(arch: str) -> None:
    assemble([(64, "f16", 16)], arch)


@pytest.mark.cuda
@pytest.mark.slow
def test_heads_of_all_sizes_assemble_without_spills() -> None:
    sizes = [(18, "f16", 16), (64, "f32", 16), (80, "f16", 16), (128, "f16", 16), (256, "f32", 8)]
    assemble(sizes, "sm_90a")


def assemble(sizes: list[tuple[int, str, int]], arch: str) -> None:
    kernels = [
        emit(kernel_of(graph_of(head_dim, kv, 2048), rows), ARCHS[arch])
        for head_dim, kv, rows in sizes
    ]
    for kernel, cubin in zip(kernels, compile_many(kernels, arch), strict=True):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
        assert cubin.static_shared + kernel.dynamic <= ARCHS[arch].shared - 1024, cubin.name
