"""`phi3`: Phi 3, 3.5 and 4. `glm4`: GLM 4. Both have gate and up in one matrix."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.hyperparameters import Hyperparameters

PHI3: dict[str, Any] = {"pairing": "halves"}
GLM4: dict[str, Any] = {"post_norms": True}


def phi3(keys: Hyperparameters) -> DecoderConfig:
    """Queries, keys and values are one matrix too. llama.cpp attends as if there were no window."""
    return read(keys, packs_gate=True, window=0, **PHI3)


def glm4(keys: Hyperparameters) -> DecoderConfig:
    """Half of a head turns; norms in front of and behind both halves."""
    return read(keys, packs_gate=True, **GLM4)
