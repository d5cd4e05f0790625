"""`granite`, the dense ones: a llama with factors for embedding, residual, scores and logits."""

from __future__ import annotations

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.hyperparameters import Hyperparameters

FACTORS = ("embedding_scale", "residual_scale", "logit_scale")


def granite(keys: Hyperparameters) -> DecoderConfig:
    """Logits are divided by their factor. A file can say that no layer has RoPE."""
    embedding, residual, logit = (keys.real(name, 0.0) or 1.0 for name in FACTORS)
    return read(
        keys,
        reads=(*FACTORS, "attention.scale"),
        embedding_scale=embedding,
        residual_scale=residual,
        logit_scale=1.0 / logit,
        attention_scale=keys.real("attention.scale", 0.0),
        unrotated=0 if keys.flag("rope.scaling.finetuned", True) else 1,
    )
