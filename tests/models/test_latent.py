"""Latent attention: beside the same without the heads' matrices taken into queries and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.models.decoder import DecoderConfig
from fusec.models.gguf_file import GGUFFile, open_gguf
from fusec.models.latent import Latent
from fusec.models.model import Model
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from tests.gguf_edit import edited

Array = np.ndarray[Any, Any]
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 320, 20)]
KEYS = {"general.architecture": "deepseek2"}


def dense() -> DecoderConfig:
    """The small model without experts."""
    return replace(config_of("deepseek2"), experts=None)


def floats(file: GGUFFile, name: str) -> Array:
    tensor = file.tensors[f"{name}.weight"]
    return tensor.data.view(np.float32).reshape(tensor.shape).astype(np.float64)


def norm(x: Array, w: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def turned(x: Array, config: DecoderConfig) -> Array:
    """Neighbours of [tokens, heads, elements] by YaRN's angles."""
    size = x.shape[-1]
    angles = np.arange(len(x))[:, None] * config.rope_base ** (-np.arange(0, size, 2) / size)
    if config.yarn:
        angles = angles / config.yarn.factors(size, config.rope_base)
    both = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([both.real, both.imag], axis=-1).reshape(x.shape)


def attention(file: GGUFFile, config: DecoderConfig, at: str, n: Array) -> Array:
    """A layer's attention with the keys and values of every head, as they are written down."""
    latent, eps, tokens = config.latent, config.norm_eps, len(n)
    assert latent is not None
    x = n
    if latent.query_rank:
        x = norm(n @ floats(file, f"{at}.attn_q_a").T, floats(file, f"{at}.attn_q_a_norm"), eps)
    q = (x @ floats(file, f"{at}.{latent.queries}").T).reshape(tokens, latent.heads, -1)
    q[..., latent.plain :] = turned(q[..., latent.plain :], config)
    both = n @ floats(file, f"{at}.attn_kv_a_mqa").T
    c = norm(both[:, : latent.rank], floats(file, f"{at}.attn_kv_a_norm"), eps)
    key = turned(both[:, None, latent.rank :], config)
    keys = np.einsum("tr,hrp->thp", c, floats(file, f"{at}.attn_k_b"))
    keys = np.concatenate([keys, np.repeat(key, latent.heads, axis=1)], axis=-1)
    values = np.einsum("tr,hvr->thv", c, floats(file, f"{at}.attn_v_b"))
    scores = np.einsum("thd,shd->hts", q, keys)
    scores *= config.attention_scale or config.head_dim**-0.5
    if t := config.temperature:
        scores = scores * (1 + t.slope * np.log1p(np.arange(tokens) // t.length))[:, None]
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    made = np.einsum("hts,shv->thv", weights, values).reshape(tokens, -1)
    return made @ floats(file, f"{at}.attn_output").T


def logits(path: Path, ids: list[int]) -> Array:
    """Of a file in f32, all positions at once."""
    file, config = open_gguf(path), Model.open(path).config
    x = floats(file, "token_embd")[ids]
    for layer in range(config.layers):
        at = f"blk.{layer}"
        n = norm(x, floats(file, f"{at}.attn_norm"), config.norm_eps)
        x = x + attention(file, config, at, n)
        n = norm(x, floats(file, f"{at}.ffn_norm"), config.norm_eps)
        gate, up = (n @ floats(file, f"{at}.ffn_{part}").T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ floats(file, f"{at}.ffn_down").T
    return norm(x, floats(file, "output_norm"), config.norm_eps) @ floats(file, "token_embd").T


def found(path: Path, ids: list[int] = IDS) -> Array:
    """One by one; a chunk of all gives the same bytes."""
    with driver.load(path, "cpu", context=24, kv="f32") as engine:
        single = np.stack([engine.step(token) for token in ids])
        assert engine.logits(ids).tobytes() == single.tobytes()
    return single


def plain() -> DecoderConfig:
    """With queries that are made at once, and nothing that stretches the context."""
    latent = replace(dense().latent, query_rank=0)
    bare = {"yarn": None, "temperature": None, "attention_scale": 0.0}
    return replace(dense(), latent=latent, **bare)


@pytest.mark.slow
@pytest.mark.parametrize("config", [dense(), plain()], ids=["low-rank", "plain"])
def test_it_is_attention_with_keys_and_values_of_every_head(config, tmp_path: Path) -> None:
    path = synthesize(config, tmp_path / "model.gguf", "F32")
    single = found(path)
    wanted = logits(path, IDS)
    assert np.linalg.norm(single - wanted) < 1e-5 * np.linalg.norm(wanted)


def unsplit(path: Path, old: Path, latent: Latent, layers: int, **keys: Any) -> Path:
    """The model as files had it before the heads' matrices were split."""
    file, changes = open_gguf(path), {}
    for at in (f"blk.{n}" for n in range(layers)):
        k, v = (floats(file, f"{at}.attn_{x}_b").astype(np.float32) for x in "kv")
        both = np.concatenate([k.transpose(0, 2, 1), v], axis=1)
        changes |= {f"{at}.attn_k_b.weight": None, f"{at}.attn_v_b.weight": None}
        changes[f"{at}.attn_kv_b.weight"] = both.reshape(-1, latent.rank)
    of = "deepseek2.attention"
    lengths = {"key_length_mla": None, "value_length_mla": None, "head_count_kv": latent.heads}
    lengths |= {"key_length": latent.plain + latent.turned, "value_length": latent.values}
    return edited(path, old, KEYS | {f"{of}.{k}": v for k, v in lengths.items()} | keys, changes)


@pytest.mark.slow
def test_files_from_before_the_matrices_were_split_give_the_same_bytes(tmp_path: Path) -> None:
    config = dense()
    path = synthesize(config, tmp_path / "model.gguf", "F32")
    old = unsplit(path, tmp_path / "old.gguf", config.latent, config.layers)
    assert Model.open(old).config == Model.open(path).config
    assert found(old).tobytes() == found(path).tobytes()


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("attention.key_length", 24, "'deepseek2.attention.key_length' is 24, .*: expected 40"),
        ("attention.value_length", 24, "attention.value_length' is 24, .*: expected 32"),
        ("attention.head_count_kv", 2, "attention.head_count_kv' is 2, .*: expected 1"),
        ("attention.key_length_mla", 8, "key_length_mla is 8, expected more than the 8 elements"),
        ("attention.value_length_mla", 20, r"attn_v_b.weight' should have 120 rows of 32"),
        ("attention.q_lora_rank", 40, r"attn_q_b.weight' should have 144 rows of 40 elements"),
    ],
)
def test_keys_that_contradict_each_other_or_the_tensors(key, value, reason, tmp_path) -> None:
    path = synthesize(dense(), tmp_path / "model.gguf", "F32")
    wrong = edited(path, tmp_path / "wrong.gguf", KEYS | {f"deepseek2.{key}": value}, {})
    with pytest.raises(FusecError, match=reason):
        Model.open(wrong)


@pytest.mark.parametrize("name", ["attn_k_b", "attn_kv_a_mqa", "attn_q_a_norm"])
def test_a_missing_tensor(name: str, tmp_path: Path) -> None:
    path = synthesize(dense(), tmp_path / "model.gguf", "F32")
    wrong = edited(path, tmp_path / "wrong.gguf", KEYS, {f"blk.1.{name}.weight": None})
    with pytest.raises(FusecError, match=rf"tensor 'blk.1.{name}.weight' is missing"):
        Model.open(wrong)


def test_yarn_without_its_multiplier(tmp_path: Path) -> None:
    """Its magnitude would be that of some elements of a head only."""
    config = dense()
    bare = replace(config, yarn=replace(config.yarn, multiplier=0.0))
    path = synthesize(bare, tmp_path / "model.gguf", "F32")
    with pytest.raises(FusecError, match="is 8 of 24, which is not supported with YaRN"):
        Model.open(path)
