"""`glm4moe`: GLM 4.5 and its Air."""

from __future__ import annotations

from typing import Any

from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import read
from fusec.models.experts import read_experts, width_of
from fusec.models.hyperparameters import Hyperparameters
from fusec.models.nextn import NEXTN

GLM4MOE: dict[str, Any] = {"pairing": "halves", "ffn_norm": "post_attention_norm"}


def glm4moe(keys: Hyperparameters) -> DecoderConfig:
    """Experts behind some dense layers, and shared ones; the large one norms queries and keys.

    Blocks at the end that draft tokens (MTP) are no layers.
    """
    shared = keys.count("expert_shared_count", 0, least=0)
    experts = read_experts(
        keys,
        shared=shared * width_of(keys),
        gating="sigmoid",
        normalised=False,
        file_says=True,
    )
    return read(
        keys,
        reads=(NEXTN,),
        experts=experts,
        skipped=keys.count(NEXTN, 0, least=0),
        qk_norms="heads" if "blk.0.attn_q_norm.weight" in keys.file.tensors else "",
        **GLM4MOE,
    )
