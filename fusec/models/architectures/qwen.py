"""`qwen2` (Qwen 1.5 to 2.5) and `qwen3`, the dense ones."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.hyperparameters import Hyperparameters

QWEN2: dict[str, Any] = {"pairing": "halves"}
QWEN3 = QWEN2 | {"qk_norms": "heads"}


def qwen2(keys: Hyperparameters) -> DecoderConfig:
    """A llama whose RoPE turns halves of a head; its files have biases of queries, keys, values."""
    return read(keys, **QWEN2)


def qwen3(keys: Hyperparameters) -> DecoderConfig:
    """The same without biases, and with a norm of each head of queries and keys."""
    return read(keys, **QWEN3)
