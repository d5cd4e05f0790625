"""`stablelm`, `starcoder2`, `nemotron` and `phi2`: LayerNorm with biases, halves of a head turn."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.hyperparameters import Hyperparameters

STABLELM: dict[str, Any] = {"pairing": "halves", "norm": "layer"}
PHI2 = STABLELM | {"activation": "gelu", "gated": False, "parallel": True}
STARCODER2 = STABLELM | {"activation": "gelu", "gated": False}
NEMOTRON = STABLELM | {"activation": "relu_squared", "gated": False}
NORMS = ("attn_norm", "ffn_norm", "output_norm")  # a bias has to be beside these, as in llama.cpp
MATRICES = ("attn_output", "ffn_up", "ffn_down")


def stablelm(keys: Hyperparameters) -> DecoderConfig:
    """The 12B has one norm a layer, whatever the key says, and norms of each head of q and k."""
    keys.ignore(["use_parallel_residual"])
    tensors = keys.file.tensors
    return read(
        keys,
        reads=("use_parallel_residual",),
        biases=NORMS,
        parallel="blk.0.ffn_norm.weight" not in tensors,
        qk_norms="each" if "blk.0.attn_q_norm.weight" in tensors else "",
        **STABLELM,
    )


def starcoder2(keys: Hyperparameters) -> DecoderConfig:
    """No gate, and biases of all matrices. llama.cpp attends as if there were no window."""
    return read(keys, window=0, biases=NORMS + MATRICES, **STARCODER2)


def nemotron(keys: Hyperparameters) -> DecoderConfig:
    """No gate, and a squared ReLU. The 1 that its norms add to weights is in the file already."""
    return read(keys, biases=NORMS, **NEMOTRON)


def phi2(keys: Hyperparameters) -> DecoderConfig:
    """One norm a layer, no gate, and biases of all matrices, that of the logits among them."""
    return read(keys, biases=(*NORMS, *MATRICES, "output"), **PHI2)
