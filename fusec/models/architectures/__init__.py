"""One function for each `general.architecture`: what it has of its own, read from a file's keys."""

from __future__ import annotations

from collections.abc import Callable

from fusec.models.architectures import (
    cohere,
    deepseek,
    gemma,
    glm,
    gpt_oss,
    granite,
    layer_norms,
    llama,
    mistral,
    olmo,
    phi,
    qwen,
)
from fusec.models.decoder import DecoderConfig
from fusec.models.hyperparameters import Hyperparameters

CONFIGS: dict[str, Callable[[Hyperparameters], DecoderConfig]] = {
    "llama": llama.llama,
    "ernie4_5": llama.ernie,
    "smollm3": llama.smollm3,
    "ernie4_5-moe": llama.ernie_moe,
    "mistral3": mistral.mistral3,
    "qwen2": qwen.qwen2,
    "qwen3": qwen.qwen3,
    "qwen2moe": qwen.qwen2moe,
    "qwen3moe": qwen.qwen3moe,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3": gemma.gemma3,
    "granite": granite.granite,
    "granitemoe": granite.granitemoe,
    "olmo2": olmo.olmo2,
    "exaone4": olmo.exaone4,
    "phi2": layer_norms.phi2,
    "stablelm": layer_norms.stablelm,
    "starcoder2": layer_norms.starcoder2,
    "nemotron": layer_norms.nemotron,
    "command-r": cohere.command_r,
    "cohere2": cohere.cohere2,
    "phi3": phi.phi3,
    "glm4": phi.glm4,
    "glm4moe": glm.glm4moe,
    "gpt-oss": gpt_oss.gpt_oss,
    "deepseek2": deepseek.deepseek2,
}
