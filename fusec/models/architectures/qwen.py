"""`qwen2` (Qwen 1.5 to 2.5), `qwen3`, and both with experts."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.experts import read_experts
from fusec.models.hyperparameters import Hyperparameters

QWEN2: dict[str, Any] = {"pairing": "halves"}
QWEN3 = QWEN2 | {"qk_norms": "heads"}


def qwen2(keys: Hyperparameters) -> DecoderConfig:
    """A llama whose RoPE turns halves of a head; its files have biases of queries, keys, values."""
    return read(keys, **QWEN2)


def qwen3(keys: Hyperparameters) -> DecoderConfig:
    """The same without biases, and with a norm of each head of queries and keys."""
    return read(keys, **QWEN3)


def qwen2moe(keys: Hyperparameters) -> DecoderConfig:
    """Experts, whose weights do not add up to 1, and a shared one with a gate of its own."""
    shared = keys.count("expert_shared_feed_forward_length", keys.count("feed_forward_length"))
    experts = read_experts(
        keys, width=_width(keys), normalised=False, shared=shared, shared_gate=True
    )
    return read(keys, experts=experts, **QWEN2)


def qwen3moe(keys: Hyperparameters) -> DecoderConfig:
    """Experts in place of every feed-forward."""
    return read(keys, experts=read_experts(keys, width=_width(keys)), **QWEN3)


def _width(keys: Hyperparameters) -> int:
    """Of an expert; where a file does not say, they share that of a dense model."""
    whole = keys.count("feed_forward_length")
    used = keys.count("expert_used_count", 1, least=0) or 1
    return keys.per_layer(
        "expert_feed_forward_length", keys.count("block_count"), max(1, whole // used)
    )
