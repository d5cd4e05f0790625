"""`phi3`: Phi 3, 3.5 and 4. `glm4`: GLM 4. Both have gate and up in one matrix."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import WINDOW, read
from fusec.models.hyperparameters import Hyperparameters

PHI3: dict[str, Any] = {"pairing": "halves"}
GLM4: dict[str, Any] = {"post_norms": True}


def phi3(keys: Hyperparameters) -> DecoderConfig:
    """Queries, keys and values are one matrix too. llama.cpp attends as if there were no window."""
    keys.ignore([WINDOW])
    return read(keys, window=0, packed=_packed(keys), **PHI3)


def glm4(keys: Hyperparameters) -> DecoderConfig:
    """Half of a head turns; norms in front of and behind both halves."""
    return read(keys, packed=_packed(keys), **GLM4)


def _packed(keys: Hyperparameters) -> frozenset[str]:
    """What is in one matrix: a file that has been taken apart has a gate."""
    there = keys.file.tensors
    gate = {"ffn_up"} if "blk.0.ffn_gate.weight" not in there else set()
    return frozenset(gate | ({"attn_qkv"} if "blk.0.attn_qkv.weight" in there else set()))
