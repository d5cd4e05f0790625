"""`gpt-oss`: OpenAI's open models, all of whose feed-forwards are experts."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.experts import read_experts
from fusec.models.gguf_metadata import MISSING
from fusec.models.hyperparameters import Hyperparameters

GPT_OSS: dict[str, Any] = {
    "pairing": "halves",
    "ffn_norm": "post_attention_norm",
    "activation": "swiglu_oai",
    "sinks": True,
}
PATTERN = 2  # of so many layers the last has no window
STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
BIASES = ("attn_output", "ffn_gate_inp", *STACKS)  # that every file has
ROUTING: dict[str, Any] = {"gating": "chosen", "normalised": False}


def gpt_oss(keys: Hyperparameters) -> DecoderConfig:
    """Windows in every other layer, sinks, biases everywhere; YaRN stretches all layers alike."""
    windows: dict[str, Any] = {
        "pattern": PATTERN,
        "default_window": MISSING,
        "stretches_windows": True,
    }
    return read(keys, experts=read_experts(keys, **ROUTING), biases=BIASES, **windows, **GPT_OSS)
