"""`gemma` and `gemma3`. The 1 that their norms add to weights is in the files' weights already."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.hyperparameters import Hyperparameters

GEMMA: dict[str, Any] = {"pairing": "halves", "activation": "gelu"}
GEMMA3 = GEMMA | {"qk_norms": "heads", "post_norms": True}
PATTERN, WINDOW_BASE = 6, 10000.0  # where a gemma3 says nothing else
DEEP = 62
"""Layers of the 27B, whose scores are scaled by the width of a head's share of the embedding."""


def gemma(keys: Hyperparameters) -> DecoderConfig:
    """GELU instead of SiLU, and an embedding times sqrt(width)."""
    return read(keys, reads=("hidden_activation",), embedding_scale=_scale(keys), **GEMMA)


def gemma3(keys: Hyperparameters) -> DecoderConfig:
    """And norms in front of and behind both halves, of queries and keys, and windows."""
    width, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    deep = keys.count("block_count") == DEEP
    return read(
        keys,
        reads=("hidden_activation", "final_logit_softcapping"),
        embedding_scale=_scale(keys),
        attention_scale=(width / heads) ** -0.5 if deep else 0.0,
        logit_cap=keys.real("final_logit_softcapping", 0.0),
        window_pattern=keys.count("attention.sliding_window_pattern", PATTERN),
        window_base=keys.real("rope.freq_base_swa", WINDOW_BASE),
        **GEMMA3,
    )


def _scale(keys: Hyperparameters) -> float:
    """What the embedding is multiplied by."""
    keys.only("hidden_activation", "gelu_pytorch_tanh", "gelu")
    return float(keys.count("embedding_length") ** 0.5)
