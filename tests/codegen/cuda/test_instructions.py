"""Every instruction of the table compiles to the PTX it claims, and ptxas takes it."""

import re

import pytest

from fusec.codegen.cuda.arch import ARCHS, find_arch
from fusec.codegen.cuda.instructions import TABLE, ptx_op
from fusec.codegen.cuda.toolchain import compile_source
from tests.codegen.cuda.kernels import tiny_kernel


@pytest.mark.cuda
@pytest.mark.parametrize("name", TABLE)
def test_an_instruction_assembles_for_hopper(name: str) -> None:
    entry = TABLE[name]
    cubin = compile_source(tiny_kernel(entry), find_arch("sm_90a"))
    assert re.search(rf"\s{re.escape(entry.mnemonic)}[\s;]", cubin.ptx), cubin.ptx
    assert ".f64" not in cubin.ptx
    assert cubin.spill_stores == cubin.spill_loads == 0


@pytest.mark.cuda
@pytest.mark.parametrize("arch", ARCHS)
def test_an_instruction_needs_no_more_than_it_says(arch: str) -> None:
    target = find_arch(arch)
    for name in ("load_weight_v4_hint", "mma_s8_16x8x32", "dp4a_su", "warp_max_u32"):
        assert TABLE[name].since <= target.number
        compile_source(tiny_kernel(TABLE[name]), target)


def test_what_reads_other_kernels_data_is_a_fence_for_the_compiler() -> None:
    for entry in TABLE.values():
        touches = {"ptr", "shared", "cluster"} & set(entry.arguments)
        if (
            touches
            and not any(word in entry.name for word in ("weight", "table"))
            and not entry.name.startswith(("prefetch", "map", "low_word"))  # addresses alone
        ):
            assert entry.memory and entry.volatile, entry.name


def test_a_name_enters_the_table_once() -> None:
    with pytest.raises(ValueError, match="dp4a_ss is in the table twice"):
        ptx_op("dp4a_ss", "dp4a.s32.s32 $0, $1, $2, $3;", "s32", "u32 u32 s32")
