"""A small model of every architecture, for `fusec synth ARCH` and for tests.

Each has what its architecture does that others do not, and llama.cpp loads it: a new architecture
is a line here. `tests/golden/make_logits.py` writes what llama.cpp makes of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fusec.models.architectures import (
    cohere,
    gemma,
    glm,
    gpt_oss,
    layer_norms,
    llama,
    olmo,
    phi,
    qwen,
)
from fusec.models.decoder import DecoderConfig, last_of
from fusec.models.experts import Experts
from fusec.models.latent import Latent
from fusec.models.positions import Temperature, Yarn
from fusec.models.presets import PRESETS

LAYERS = 3
SIZES = {"layers": LAYERS, "vocab": 320, "context": 64}


def matrices(*names: str) -> frozenset[str]:
    """Those of all layers, as `biased` wants them. Norms are among what may have a bias."""
    return frozenset(f"blk.{layer}.{name}" for layer in range(LAYERS) for name in names)


QKV = matrices("attn_q", "attn_k", "attn_v")
PARALLEL = matrices("attn_norm") | {"output_norm"}
TWO_NORMS = PARALLEL | matrices("ffn_norm")
ALL = QKV | matrices("attn_output", "ffn_up", "ffn_down")  # that are there without a gate
STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
YARN = Yarn(4.0, 16, multiplier=1.0)
ROOT = 96**0.5  # of the width
SCALES = {"embedding_scale": 12.0, "residual_scale": 0.25, "logit_scale": 0.125}

TRAITS: dict[str, dict[str, Any]] = {
    "llama": {"biased": frozenset({"blk.1.ffn_down", "blk.2.attn_output"}), "tied": False},
    "ernie4_5": {},
    "smollm3": {"layers": 4, **llama.SMOLLM3},
    "mistral3": {
        **{"yarn": Yarn(4.0, 16, fast=8.0, slow=0.25, multiplier=1.0), "head_dim": 32},
        **{"temperature": Temperature(0.5, 16), "rope_dims": 32},
    },
    "qwen2": {"biased": QKV | {"output"}, "tied": False, **qwen.QWEN2},
    "qwen3": {"head_dim": 32, "rope_dims": 32, **qwen.QWEN3},
    "gemma": {"embedding_scale": ROOT, **gemma.GEMMA},
    "gemma2": {
        **{"embedding_scale": ROOT, "window": 24, "full_layers": last_of(gemma.PATTERN2, LAYERS)},
        **{"score_cap": 2.0, "logit_cap": 3.0},
        **gemma.GEMMA2,
    },
    "gemma3": {
        **{"embedding_scale": ROOT, "window": 24, "full_layers": last_of(gemma.PATTERN, 7)},
        **{"window_base": gemma.LOCAL_BASE, "layers": 7, "rope_base": 1e6},
        **gemma.GEMMA3,
    },
    "granite": {"attention_scale": 0.0625, **SCALES},
    "olmo2": {"tied": False, **olmo.OLMO2},
    "exaone4": {"rope_factors": True, **olmo.EXAONE4},
    "phi2": {
        **{"biased": ALL | PARALLEL | {"output"}, "tied": False, "rope_dims": 8},
        **layer_norms.PHI2,
    },
    "stablelm": {
        **{"biased": PARALLEL, "tied": False, "qk_norms": "each", "parallel": True, "rope_dims": 8},
        **layer_norms.STABLELM,
    },
    "starcoder2": {"biased": ALL | TWO_NORMS, **layer_norms.STARCODER2},
    "nemotron": {"biased": TWO_NORMS, "tied": False, "rope_dims": 8, **layer_norms.NEMOTRON},
    "command-r": {"logit_scale": 0.0625, **cohere.COMMAND_R},
    "cohere2": {
        **{"logit_scale": 0.25, "layers": 5, "window": 24},
        **{"full_layers": last_of(cohere.PATTERN, 5), **cohere.COHERE2},
    },
    "deepseek2": {
        **{"latent": Latent(6, 32, 48, plain=16, turned=8, values=24), "kv_heads": 1},
        **{"head_dim": 24, "rope_dims": 8, "yarn": YARN, "temperature": Temperature(0.5, 4)},
        "attention_scale": YARN.grown(1.0) ** 2 * 24**-0.5,
        "experts": Experts(8, 3, 64, dense=1, gating="sigmoid", choice_bias=True, shared=128),
    },
    "phi3": {"packed": frozenset({"attn_qkv", "ffn_up"}), **phi.PHI3},
    "glm4": {"packed": frozenset({"ffn_up"}), "biased": QKV, "rope_dims": 8, **phi.GLM4},
    "ernie4_5-moe": {"experts": Experts(8, 3, 64, dense=1, choice_bias=True, shared=128)},
    "qwen2moe": {
        "biased": QKV,
        "tied": False,
        "experts": Experts(8, 3, 64, normalised=False, shared=96, shared_gate=True),
        **qwen.QWEN2,
    },
    "qwen3moe": {"experts": Experts(40, 6, 64), **qwen.QWEN3},
    "granitemoe": {"attention_scale": 0.0625, "experts": Experts(8, 3, 256, shared=64), **SCALES},
    "glm4moe": {
        "biased": QKV,
        "skipped": 1,
        "experts": Experts(
            16,
            4,
            64,
            dense=1,
            gating="sigmoid",
            scale=2.5,
            groups=4,
            groups_used=2,
            choice_bias=True,
            shared=128,
        ),
        **glm.GLM4MOE,
    },
    "gpt-oss": {
        "biased": QKV | matrices("attn_output", "ffn_gate_inp", *STACKS),
        "tied": False,
        **{"window": 24, "full_layers": last_of(gpt_oss.PATTERN, LAYERS)},
        "experts": Experts(8, 3, 64, **gpt_oss.ROUTING),
        **gpt_oss.GPT_OSS,
    },
}


def config_of(architecture: str) -> DecoderConfig:
    """The small model of an architecture."""
    given = SIZES | {"architecture": architecture} | TRAITS[architecture]
    return replace(PRESETS["tiny"], **given)
