"""Shapes of known models, which `fusec synth` fills with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fusec.models.architectures import gemma, gpt_oss, layer_norms, qwen
from fusec.models.decoder import DecoderConfig, last_of
from fusec.models.experts import Experts


def _preset(
    layers: int, width: int, ffn: int, heads: tuple[int, int], **other: Any
) -> DecoderConfig:
    """SmolLM2's settings for everything not given; `heads` are query and key/value heads."""
    head_dim = other.get("head_dim", width // heads[0])
    config = DecoderConfig(
        layers=layers,
        width=width,
        ffn_width=ffn,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=head_dim,
        vocab=49152,
        context=8192,
        norm_eps=1e-5,
        rope_base=100000.0,
        rope_dims=head_dim,
        rope_scale=1.0,
        rope_factors=False,
        tied=True,
    )
    return replace(config, **other)


def _biases(layers: int, *names: str) -> frozenset[str]:
    """Tensors `names` of each layer, as those that have a bias."""
    return frozenset(f"blk.{layer}.{name}" for layer in range(layers) for name in names)


QKV, NORMS = ("attn_q", "attn_k", "attn_v"), ("attn_norm", "ffn_norm")
OTHERS = ("attn_output", "ffn_up", "ffn_down")  # of matrices, where all have one


def _qwen3(
    layers: int, width: int, ffn: int, heads: tuple[int, int], **other: Any
) -> DecoderConfig:
    given = {"vocab": 151936, "context": 40960, "norm_eps": 1e-6, "rope_base": 1e6, **qwen.QWEN3}
    given |= {"architecture": "qwen3", "head_dim": 128, **other}
    return _preset(layers, width, ffn, heads, **given)


def _gemma3(layers: int, width: int, ffn: int) -> DecoderConfig:
    """One with a window of 512 tokens in five layers of six."""
    given = {"vocab": 262144, "context": 32768, "norm_eps": 1e-6, "rope_base": 1e6, **gemma.GEMMA3}
    given |= {"architecture": "gemma3", "head_dim": 256, "embedding_scale": width**0.5}
    given |= {"window_base": gemma.LOCAL_BASE, "full_layers": last_of(gemma.PATTERN, layers)}
    return _preset(layers, width, ffn, (4, 1), window=512, **given)


def _gpt_oss(layers: int) -> DecoderConfig:
    """The first layers of the 20B."""
    given: dict[str, Any] = {"vocab": 201088, "context": 4096, "rope_base": 150000.0}
    given |= {"architecture": "gpt-oss", "tied": False, "head_dim": 64, "window": 128}
    given |= {"full_layers": last_of(gpt_oss.PATTERN, layers), **gpt_oss.GPT_OSS}
    names = [f"attn_{part}" for part in ("q", "k", "v", "output")]
    names += [f"ffn_{part}" for part in ("gate_inp", "gate_exps", "up_exps", "down_exps")]
    biased = _biases(layers, *names)
    experts = Experts(32, 4, 2880, **gpt_oss.ROUTING)
    return _preset(layers, 2880, 2880, (64, 8), biased=biased, experts=experts, **given)


# In `tiny` rows of 96 are not whole blocks of 256 and rows of 256 are, and eight layers are the
# fewest of which llama.cpp's rules raise one: its IQ4_XS mix holds every type of the large ones.
PRESETS = {
    "smollm2-135m": _preset(30, 576, 1536, (9, 3)),
    "smollm2-360m": _preset(32, 960, 2560, (15, 5)),
    "smollm2-1.7b": _preset(24, 2048, 8192, (32, 32), rope_base=130000.0),
    "llama3.2-1b": _preset(
        16, 2048, 8192, (32, 8), vocab=128256, context=131072, rope_base=5e5, rope_factors=True
    ),
    "qwen2.5-0.5b": _preset(
        *(24, 896, 4864, (14, 2)),
        vocab=151936,
        context=32768,
        norm_eps=1e-6,
        rope_base=1e6,
        architecture="qwen2",
        biased=_biases(24, *QKV),
        **qwen.QWEN2,
    ),
    "qwen3-0.6b": _qwen3(28, 1024, 3072, (16, 8)),
    "qwen3-8b": _qwen3(36, 4096, 12288, (32, 8), tied=False),
    "qwen3-30b-a3b-4-layers": _qwen3(
        *(4, 2048, 6144, (32, 4)),
        architecture="qwen3moe",
        experts=Experts(128, 8, 768),
        tied=False,
    ),
    "gpt-oss-20b-4-layers": _gpt_oss(4),
    "gemma3-270m": _gemma3(18, 640, 2048),
    "gemma3-1b": _gemma3(26, 1152, 6912),
    "stablelm2-1.6b": _preset(
        *(24, 2048, 5632, (32, 32)),
        vocab=100352,
        context=4096,
        rope_base=10000.0,
        rope_dims=16,
        tied=False,
        architecture="stablelm",
        biased=_biases(24, *QKV, *NORMS) | {"output_norm"},
        **layer_norms.STABLELM,
    ),
    "starcoder2-3b": _preset(
        *(30, 3072, 12288, (24, 2)),
        context=16384,
        rope_base=999999.4420358813,
        architecture="starcoder2",
        biased=_biases(30, *QKV, *NORMS, *OTHERS) | {"output_norm"},
        **layer_norms.STARCODER2,
    ),
    "phi-2": _preset(
        *(32, 2560, 10240, (32, 32)),
        vocab=51200,
        context=2048,
        rope_base=10000.0,
        rope_dims=32,
        tied=False,
        architecture="phi2",
        biased=_biases(32, *QKV, NORMS[0], *OTHERS) | {"output_norm", "output"},
        **layer_norms.PHI2,
    ),
    "tiny": _preset(8, 96, 256, (6, 2), vocab=512, context=512, rope_base=10000.0),
}
