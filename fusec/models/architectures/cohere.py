"""`command-r` and `cohere2`: LayerNorm without biases, attention beside the feed-forward."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.gguf_metadata import MISSING
from fusec.models.hyperparameters import Hyperparameters

COMMAND_R: dict[str, Any] = {"norm": "layer", "parallel": True}
COHERE2 = COMMAND_R | {"rope_in_windows": True}
PATTERN = 4  # where a cohere2 says nothing else
DEEP = 64
"""Layers from which on a command-r has norms of each head of queries and keys."""


def command_r(keys: Hyperparameters) -> DecoderConfig:
    """Logits are multiplied by their factor."""
    deep = keys.count("block_count") >= DEEP
    return _read(keys, qk_norms="each" if deep else "", **COMMAND_R)


def cohere2(keys: Hyperparameters) -> DecoderConfig:
    """And layers without a window have no RoPE."""
    return _read(keys, pattern=PATTERN, default_window=MISSING, **COHERE2)


def _read(keys: Hyperparameters, **traits: Any) -> DecoderConfig:
    scale = keys.real("logit_scale", 0.0) or 1.0
    return read(keys, reads=("logit_scale",), logit_scale=scale, **traits)
