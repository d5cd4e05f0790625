"""docs/kernel.md quotes a kernel whole, as it is emitted today."""

from __future__ import annotations

import difflib
from dataclasses import replace

import pytest

import fusec
from fusec.codegen.cuda.emit import emit
from fusec.ir.plan import Kernel
from tests import pages


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    plan = fusec.compile("demo", target="sm_90a", level=2).plan
    (found,) = [k for k in plan.kernels if k.name.startswith("norm_matvec_silu_mul_")]
    return found


def test_the_page_has_every_line_but_the_imports(kernel: Kernel) -> None:
    source = emit(kernel).source
    imports = source[source.index("from numba") : source.index("\n\n@inline")]
    rest = [line for line in source.replace(imports, "").splitlines() if line]
    quoted = [line for b in pages.blocks(pages.page("docs/kernel.md")) for line in b.splitlines()]
    assert [line for line in quoted if line] == rest


def test_the_wrapper_adds_what_the_page_says(kernel: Kernel) -> None:
    both = [emit(k).source.splitlines() for k in (kernel, replace(kernel, overlaps=True))]
    added = [line for line in difflib.unified_diff(*both) if line.startswith("+    ")]
    (shown,) = pages.blocks(pages.page("docs/kernel.md"), "diff")
    assert shown in "\n".join(added[added.index("+    griddep_launch()") :]) + "\n"
