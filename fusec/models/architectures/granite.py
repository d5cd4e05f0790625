"""`granite`: a llama with factors for embedding, residual, scores and logits; with experts too."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.experts import read_experts
from fusec.models.hyperparameters import Hyperparameters

FACTORS = ("embedding_scale", "residual_scale", "logit_scale")


def granite(keys: Hyperparameters) -> DecoderConfig:
    """Logits are divided by their factor. A file can say that no layer has RoPE."""
    return _read(keys, unrotated=0 if keys.flag("rope.scaling.finetuned", True) else 1)


def granitemoe(keys: Hyperparameters) -> DecoderConfig:
    """Experts in place of every feed-forward, and perhaps a shared one. All layers have RoPE."""
    keys.ignore(["rope.scaling.finetuned"])
    shared = keys.count("expert_shared_feed_forward_length", 0, least=0)
    width = keys.count("feed_forward_length")
    return _read(keys, experts=read_experts(keys, width=width, shared=shared))


def _read(keys: Hyperparameters, **traits: Any) -> DecoderConfig:
    """What both have."""
    embedding, residual, logit = (keys.real(name, 0.0) or 1.0 for name in FACTORS)
    return read(
        keys,
        reads=(*FACTORS, "attention.scale"),
        embedding_scale=embedding,
        residual_scale=residual,
        logit_scale=1.0 / logit,
        attention_scale=keys.real("attention.scale", 0.0),
        **traits,
    )
