"""`llama` and what differs from it by a word: `ernie4_5`, also with experts, and `smollm3`.

Llama 1 to 3, Mixtral, SmolLM2, TinyStories models and many others are `llama`.
GGUF stores the query and key rows of these permuted so that RoPE turns adjacent pairs of elements.
"""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.experts import read_experts
from fusec.models.hyperparameters import Hyperparameters

SMOLLM3: dict[str, Any] = {"unrotated": 4}  # layers of which one has no RoPE (NoPE)


def llama(keys: Hyperparameters) -> DecoderConfig:
    """As the file says. With experts it is a Mixtral."""
    width = keys.per_layer("feed_forward_length", keys.count("block_count"))
    return read(keys, experts=read_experts(keys, width=width))


def ernie(keys: Hyperparameters) -> DecoderConfig:
    """`ernie4_5`, the dense ones: a llama."""
    return read(keys)


def ernie_moe(keys: Hyperparameters) -> DecoderConfig:
    """`ernie4_5-moe`: experts behind some dense layers, and shared ones."""
    keys.only("interleave_moe_layer_step", 1)
    shared = keys.count("expert_shared_feed_forward_length", 0, least=0)
    return read(keys, experts=read_experts(keys, shared=shared))


def smollm3(keys: Hyperparameters) -> DecoderConfig:
    """A llama with some layers that know no positions."""
    return read(keys, **SMOLLM3)
