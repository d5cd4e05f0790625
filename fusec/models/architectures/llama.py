"""`llama` and what differs from it by a word: `ernie4_5` and `smollm3`.

Llama 1 to 3, SmolLM2, TinyStories models and many others are `llama`.
GGUF stores the query and key rows of these permuted so that RoPE turns adjacent pairs of elements.
"""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.hyperparameters import Hyperparameters

SMOLLM3: dict[str, Any] = {"unrotated": 4}  # layers of which one has no RoPE (NoPE)


def llama(keys: Hyperparameters) -> DecoderConfig:
    """As the file says."""
    return read(keys)


def ernie(keys: Hyperparameters) -> DecoderConfig:
    """`ernie4_5`, the dense ones: a llama."""
    return read(keys)


def smollm3(keys: Hyperparameters) -> DecoderConfig:
    """A llama with some layers that know no positions."""
    return read(keys, **SMOLLM3)
