"""`deepseek2`: DeepSeek V2 to V3.1 and R1, Kimi K2, GLM 4.7 Flash: latent attention (MLA)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fusec.errors import FusecError
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_keys import YARN_KEYS, read, stretch
from fusec.models.experts import Experts, read_experts, width_of
from fusec.models.hyperparameters import Hyperparameters
from fusec.models.latent import Latent
from fusec.models.nextn import NEXTN
from fusec.models.positions import Temperature

STORED = float(np.float32(0.1))
"""What conversion has multiplied YaRN's multiplier by, in f32."""
OF_HEADS = ("attn_k_b", "attn_v_b")  # a factor beside these would be left unused


def deepseek2(keys: Hyperparameters) -> DecoderConfig:
    """Keys and values of all heads are made of one small vector a position.

    Blocks at the end that draft tokens (MTP) are no layers.
    """
    latent = latent_of(keys)
    head = latent.plain + latent.turned
    sizes: dict[str, Any] = {"kv_heads": 1, "head_dim": head, "rope_dims": latent.turned}
    traits = sizes | stretched(keys, head) | {"experts": _experts(keys)}
    traits["skipped"] = keys.count(NEXTN, 0, least=0)
    config = read(keys, reads=(NEXTN,), latent=latent, temperature=_temperature(keys), **traits)
    return replace(config, scaled=frozenset(s for s in config.scaled if not s.endswith(OF_HEADS)))


def _experts(keys: Hyperparameters) -> Experts | None:
    """Behind some dense layers, with shared ones beside them."""
    shared = keys.count("expert_shared_count", 0, least=0)
    if shared:
        shared *= width_of(keys)
    return read_experts(keys, shared=shared, normalised=False, file_says=True)


def latent_of(keys: Hyperparameters) -> Latent:
    """The sizes. Raises FusecError where those of what is cached contradict them.

    Files from before the heads' matrices were split have the lengths of heads where others have
    those of what is cached, and as many key/value heads as heads.
    """
    heads = keys.count("attention.head_count")
    rank, turned = keys.count("attention.kv_lora_rank"), keys.count("rope.dimension_count")
    lengths = "attention.key_length", "attention.value_length"
    if keys.has("attention.key_length_mla"):
        for name, wanted in zip(lengths, (rank + turned, rank), strict=True):
            keys.only(name, wanted)
        keys.only("attention.head_count_kv", 1)
        lengths = "attention.key_length_mla", "attention.value_length_mla"
    head, values = (keys.count(name) for name in lengths)
    if head <= turned:
        raise FusecError(
            f"{keys.file.path}: {keys.key(lengths[0])} is {head}, expected more than the {turned} "
            "elements that are turned"
        )
    query_rank = 0
    keys.ignore(["attention.q_lora_rank"])
    if "blk.0.attn_q.weight" not in keys.file.tensors:
        query_rank = keys.count("attention.q_lora_rank")
    return Latent(heads, rank, query_rank, head - turned, turned, values)


def stretched(keys: Hyperparameters, head: int) -> dict[str, Any]:
    """What stretches the context, as `read` has it: YaRN's logarithm is in the scores' scale."""
    found = stretch(keys, (YARN_KEYS["multiplier"],))
    yarn = found.get("yarn")
    if yarn is None or not yarn.multiplier:
        return found
    yarn = replace(yarn, multiplier=yarn.multiplier / STORED)
    scale = yarn.grown(yarn.multiplier) ** 2 * head**-0.5
    return found | {"yarn": yarn, "magnitude": 1.0, "attention_scale": scale}


def _temperature(keys: Hyperparameters) -> Temperature | None:
    """That of Mistral Large 3."""
    slope = keys.real("attention.temperature_scale", 0.0)
    return Temperature(slope, keys.count("attention.temperature_length")) if slope else None
