"""Every kernel of real shapes assembles for Hopper without spills and without float64."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusec.codegen.cuda import control
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.models.llama import LlamaConfig, decode_graph
from fusec.models.quant_mix import Mix
from fusec.models.synth import PRESETS
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.codegen.cuda.kernels import needs_compiler
from tests.targets import ANY

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
    config: LlamaConfig, quant: str, other: dict[str, str] | None = None
) -> dict[str, CudaKernel]:
    """Every kernel of every level, by name; `other` replaces some of the mix's types."""
    mix = Mix(quant, config.layers, config.heads // config.kv_heads, config.tied)
    types = {name: mix.dtype(name, shape) for name, shape in config.tensor_shapes()}
    types |= other or {}
    graph = decode_graph(config, types, 1, min(config.context, 2048), "f16")
    plans = (
        lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "sm_90a", level)
        for level in (0, 1, 2)
    )
    return {kernel.name: emit(kernel) for plan in plans for kernel in plan.kernels}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "quant", "other"),
    [
        (STORIES260K, "F32", {}),
        (PRESETS["tiny"], "IQ4_XS", {}),
        (PRESETS["smollm2-135m"], "IQ4_XS", {}),
        (MIXED, "IQ4_XS", MIXED_TYPES),
        (MIXED, "Q4_K_M", SMALL_TYPES),
    ],
    ids=["stories260k", "tiny", "smollm2-135m", "mixed", "small types"],
)
def test_kernels_assemble_without_spills(
    config: LlamaConfig, quant: str, other: dict[str, str]
) -> None:
    kernels = list(kernels_of(config, quant, other).values())
    for cubin in compile_many(kernels, "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0, cubin.name
        assert ".f64" not in cubin.ptx, cubin.name
        assert cubin.static_shared <= 48 << 10, cubin.name


@needs_compiler
def test_control_kernels_assemble_without_spills() -> None:
    for cubin in compile_many(control.kernels(49152), "sm_90a"):
        assert cubin.spill_stores == cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx
