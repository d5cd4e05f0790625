"""Every kernel of real shapes assembles for Hopper without spills and without float64."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest

from fusec import driver
from fusec.codegen.cuda import control
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.ir import Builder
from fusec.ir.choice import Choice
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.quant_mix import Mix
from fusec.models.synth import PRESETS

STORIES260K = replace(
    PRESETS["tiny"], layers=5, width=64, ffn_width=172, heads=8, kv_heads=4, head_dim=8,
    rope_dims=8, vocab=512,
)  # fmt: skip


MIXED = replace(
    PRESETS["tiny"], layers=1, width=256, ffn_width=256, heads=4, kv_heads=1, head_dim=64,
    rope_dims=64,
)  # fmt: skip
MIXED_TYPES = {
    "blk.0.attn_k.weight": "f16",
    "blk.0.attn_v.weight": "q5_k",
    "blk.0.ffn_up.weight": "q6_k",
}
SMALL_TYPES = {
    "blk.0.attn_q.weight": "iq2_xs",
    "blk.0.attn_k.weight": "nvfp4",
    "blk.0.attn_v.weight": "q2_k",
    "blk.0.attn_output.weight": "iq1_m",
    "blk.0.ffn_gate.weight": "iq3_s",
    "blk.0.ffn_up.weight": "tq1_0",
    "blk.0.ffn_down.weight": "q3_k",
}


def kernels_of(
    config: DecoderConfig, quant: str, other: dict[str, str], levels: Iterable[int]
) -> list[CudaKernel]:
    """Every kernel of the levels; `other` replaces some of the mix's types."""
    mix = Mix(quant, config.layers, config.heads // config.kv_heads, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    types |= other
    graph = decode_graph(config, types, 1, min(config.context, 2048), "f16")
    plans = (driver.compile(graph, target="sm_90a", level=level).plan for level in levels)
    kernels = dict.fromkeys(kernel for plan in plans for kernel in plan.kernels)
    return [emit(kernel) for kernel in kernels]


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "quant", "other", "levels"),
    [
        (STORIES260K, "F32", {}, (0, 3)),
        (PRESETS["smollm2-135m"], "IQ4_XS", {}, (0, 1, 2)),  # 3: test_overlap
        (MIXED, "IQ4_XS", MIXED_TYPES, (2, 3)),
        (MIXED, "Q4_K_M", SMALL_TYPES, (1, 3)),
    ],
    ids=["stories260k", "smollm2-135m", "mixed", "small types"],
)
def test_kernels_assemble_without_spills(
    config: DecoderConfig, quant: str, other: dict[str, str], levels: Iterable[int]
) -> None:
    kernels = kernels_of(config, quant, other, levels)
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
        assert cubin.static_shared <= 48 << 10, cubin.name


@pytest.mark.cuda
@pytest.mark.parametrize("overlaps", [False, True])
def test_control_kernels_assemble_without_spills(overlaps: bool) -> None:
    for cubin in compile_many(control.kernels(49152, overlaps, parts=1024), "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx


@pytest.mark.cuda
def test_what_is_known_of_a_thread_leaves_no_tests_of_where_a_vector_ends() -> None:
    """512 threads and 2,048 elements: all of them have a quad each; of 2,044, not all."""

    def tests(columns: int) -> int:
        b = Builder("matvec")
        y = b.matvec(b.input("x", (1, columns)), b.weight("w", (64, columns), "f32"))
        kernel = driver.compile(b.build(y), target="sm_90a", level=0).plan.kernels[0]
        (cubin,) = compile_many([emit(replace(kernel, choice=Choice(16)))], "sm_90a")
        before_rows = cubin.ptx.split("bar.sync")[0]
        return len(re.findall(r"setp\S+\s+%p", before_rows))

    assert tests(2048) == 0
    assert tests(2044) > 0
