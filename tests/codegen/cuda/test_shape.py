"""The default shapes of kernels: what a launch that overlaps leaves to its neighbours."""

from __future__ import annotations

import pytest

from fusec import Builder
from fusec.codegen.common import open_region
from fusec.codegen.cuda.arch import ARCHS, Arch
from fusec.codegen.cuda.candidates import default_of
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.shape import beside, plan
from fusec.ir import gpus
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap

SMS = ARCHS["sm_90a"].sms


def kernel(rows: int, columns: int, dtype: str = "iq4_nl", overlaps: bool = True) -> Kernel:
    b = Builder("one")
    y = b.matvec(b.input("x", (1, columns)), b.weight("w", (rows, columns), dtype))
    lowered = lower(b.build(y), "sm_90a", 3)
    (found,) = (overlap(lowered) if overlaps else lowered).kernels
    return found


def blocks(of: Kernel) -> int:
    return plan(open_region(of)[1], default_of(of), SMS).grid


@pytest.mark.parametrize("dtype", ["iq4_nl", "q6_k", "q8_0", "f16"])
@pytest.mark.parametrize(("rows", "columns"), [(576, 256), (1000, 768), (1536, 768), (700, 1536)])
def test_a_small_matrix_leaves_processors_to_its_neighbours(
    rows: int, columns: int, dtype: str
) -> None:
    found = kernel(rows, columns, dtype)
    assert blocks(found) <= beside(SMS) < SMS
    assert default_of(found).release == "load"


def test_alone_a_small_matrix_takes_as_many_blocks_as_there_are_processors() -> None:
    found = kernel(1536, 576, overlaps=False)
    assert beside(SMS) < blocks(found) <= SMS
    assert default_of(found).release == Choice(1).release


def test_long_rows_are_taken_two_at_a_time() -> None:
    assert default_of(kernel(576, 1024)).rows_at_once == 1
    assert default_of(kernel(576, 1056)).rows_at_once == 2


@pytest.mark.parametrize(("rows", "dtype"), [(4096, "q8_0"), (16384, "iq4_nl")])
def test_a_large_matrix_fills_the_gpu(rows: int, dtype: str) -> None:
    assert blocks(kernel(rows, 1024, dtype)) > beside(SMS)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_a_large_matrix_fills_each_gpu(arch: Arch) -> None:
    """Two blocks for each multiprocessor of the GPU that stands for the architecture."""
    gpu = gpus.for_arch(arch.name)
    assert gpu is not None
    assert gpu.sms < emit(kernel(16384, 1024), arch).grid <= 2 * gpu.sms


def test_what_leaves_room_to_its_neighbours_is_a_matter_of_the_gpu() -> None:
    found, larger = kernel(1008, 576), ARCHS["sm_120a"]
    assert larger.sms > SMS
    assert default_of(found, larger).rows_at_once == 1  # 126 blocks of 170
    assert default_of(found).rows_at_once == 2
