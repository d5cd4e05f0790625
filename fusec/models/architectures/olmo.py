"""`olmo2` and `exaone4`: norms behind attention and feed-forward instead of in front of them."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import BASE, WINDOW, read
from fusec.models.hyperparameters import Hyperparameters

BEHIND: dict[str, Any] = {"pairing": "halves", "pre_norms": False, "post_norms": True}
PATTERN = 4  # of models with windows: OLMo 3, and the EXAONE 4 of so many layers
DEEP, DEEP_WINDOW = 64, 4096
OLMO2 = BEHIND | {"qk_norms": "whole"}
EXAONE4 = BEHIND | {"qk_norms": "heads"}


def olmo2(keys: Hyperparameters) -> DecoderConfig:
    """Queries and keys are normed as whole vectors. OLMo 3 has windows, and YaRN without them."""
    has_windows = keys.count(WINDOW, 0, least=0) > 0
    base = keys.real(*BASE) if has_windows else 0.0  # llama.cpp knows no base of windows here
    return read(keys, pattern=PATTERN, window_base=base, **OLMO2)


def exaone4(keys: Hyperparameters) -> DecoderConfig:
    """Heads of queries and keys are normed each by itself.

    The 32B has windows, and RoPE in their layers alone. llama.cpp knows it by its depth.
    """
    deep = keys.count("block_count") == DEEP
    if not deep:
        keys.only("attention.sliding_window", 0)
    window = DEEP_WINDOW if deep else 0
    return read(keys, pattern=PATTERN, default_window=window, rope_in_windows=deep, **EXAONE4)
