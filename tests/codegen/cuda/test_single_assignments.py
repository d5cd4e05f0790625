"""The search for variables assigned once finds what numba-cuda's own search finds."""

from __future__ import annotations

from typing import Any

import pytest

from fusec.codegen.cuda import single_assignments
from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.toolchain import CudaKernel, compile_source

SOURCE = """
from numba import int32, uint32
from fusec.codegen.cuda.device import at, load_f32, store_f32_if, thread_index


def mixed(x, y):
    once = load_f32(x)
    twice = once
    twice = twice + once
    across = once * twice
    for turn in range(int32(across)):
        inner = twice * across
        twice += inner
    if once > across:
        either = once
    else:
        either = twice
    store_f32_if(at(y, thread_index()), either, thread_index() < uint32(9))
"""


@pytest.mark.cuda
def test_it_finds_what_numba_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.cuda.lowering import Lower

    numbas_own, ours = Lower._find_singly_assigned_variable, single_assignments.find
    found: list[tuple[set[str], set[str]]] = []  # of each function: assigned once, others

    def both(lower: Any) -> None:
        numbas_own(lower)
        wanted = lower._singly_assigned_vars
        ours(lower)
        assert lower._singly_assigned_vars == wanted
        found.append((wanted, {name for name in lower.func_ir._definitions if name not in wanted}))

    monkeypatch.setattr(single_assignments, "find", both)
    compile_source(CudaKernel("mixed", SOURCE, ("f32*", "f32*"), 32), find_arch("sm_90a"))
    assert any(once and others for once, others in found)
    assert Lower._find_singly_assigned_variable is numbas_own
