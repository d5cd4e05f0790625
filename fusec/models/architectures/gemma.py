"""`gemma`, `gemma2` and `gemma3`. The 1 that norms add to weights is in the files' weights."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import WINDOW, WINDOW_BASE, read
from fusec.models.hyperparameters import Hyperparameters

GEMMA: dict[str, Any] = {"pairing": "halves", "activation": "gelu"}
GEMMA2 = GEMMA | {"post_norms": True}
GEMMA3 = GEMMA2 | {"qk_norms": "heads"}
PATTERN2, WINDOW2 = 2, 4096  # where a gemma2 says nothing else
CAPS = (50.0, 30.0)  # of scores and of logits, the same
PATTERN, LOCAL_BASE = 6, 10000.0  # where a gemma3 says nothing else
DEEP = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B, whose scores are scaled by the width of a head's share of the embedding."""


def gemma(keys: Hyperparameters) -> DecoderConfig:
    """GELU instead of SiLU, and an embedding times sqrt(width)."""
    return read(keys, reads=("hidden_activation",), embedding_scale=_scale(keys), **GEMMA)


def gemma2(keys: Hyperparameters) -> DecoderConfig:
    """And norms in front of and behind both halves, windows, and caps of scores and logits."""
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    score_cap, logit_cap = (keys.real(*given) for given in zip(caps, CAPS, strict=True))
    return read(
        keys,
        reads=("hidden_activation", *caps),
        pattern=PATTERN2,
        default_window=WINDOW2,
        embedding_scale=_scale(keys),
        attention_scale=_attention_scale(keys),
        score_cap=score_cap,
        logit_cap=logit_cap,
        **GEMMA2,
    )


def gemma3(keys: Hyperparameters) -> DecoderConfig:
    """Norms of queries and keys instead of the scores' cap; a base of RoPE for window layers.

    Some have no windows, and then one base.
    """
    base = keys.real(WINDOW_BASE, LOCAL_BASE)
    has_windows = keys.count(WINDOW, 0, least=0) > 0
    return read(
        keys,
        reads=("hidden_activation", "final_logit_softcapping", WINDOW_BASE),
        pattern=PATTERN,
        embedding_scale=_scale(keys),
        attention_scale=_attention_scale(keys),
        logit_cap=keys.real("final_logit_softcapping", 0.0),
        window_base=base if has_windows else 0.0,
        **GEMMA3,
    )


def _attention_scale(keys: Hyperparameters) -> float:
    """What scores are multiplied by; 0 is 1 / sqrt of a head's size."""
    width, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    deep = keys.count("block_count") == DEEP[keys.file.architecture]
    return (width / heads) ** -0.5 if deep else 0.0


def _scale(keys: Hyperparameters) -> float:
    """What the embedding is multiplied by."""
    keys.only("hidden_activation", "gelu_pytorch_tanh", "gelu")
    return float(keys.count("embedding_length") ** 0.5)
