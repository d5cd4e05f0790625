"""The block that drafts: what it computes, by its description, and what a file has of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.ir.reference import Reference
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from tests.gguf_edit import edited

LAYERS, TOKENS = 2, 6
AT = f"blk.{LAYERS}"
WIDTH, VOCABULARY, HEADS, KV_HEADS, HEAD = 96, 320, 6, 2, 16


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    config = config_of("glm4moe")
    experts = replace(config.experts, groups=1, groups_used=1)
    config = replace(config, layers=LAYERS, skipped=1, biased=frozenset(), experts=experts)
    return synthesize(config, tmp_path_factory.mktemp("nextn") / "model.gguf", "F32")


def floats(path: Path) -> dict[str, np.ndarray]:
    return {n: t.data.view("f4").reshape(t.shape) for n, t in open_gguf(path).tensors.items()}


def changed(path: Path, target: Path, tensors: dict, **keys: object) -> Path:
    names = {f"glm4moe.{name}": value for name, value in keys.items()}
    return edited(path, target, {"general.architecture": "glm4moe"} | names, tensors)


def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight


def turned(x: np.ndarray) -> np.ndarray:
    """Halves of each head [tokens, heads, HEAD] turned by the position."""
    angles = np.arange(TOKENS)[:, None] / 10000.0 ** (np.arange(HEAD // 2) / (HEAD // 2))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def attended(n: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    q = turned((n @ w[f"{AT}.attn_q.weight"].T).reshape(TOKENS, HEADS, HEAD))
    k = turned((n @ w[f"{AT}.attn_k.weight"].T).reshape(TOKENS, KV_HEADS, HEAD))
    v = (n @ w[f"{AT}.attn_v.weight"].T).reshape(TOKENS, KV_HEADS, HEAD)
    k, v = (x.repeat(HEADS // KV_HEADS, axis=1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / 4
    scores = np.where(np.tril(np.ones((TOKENS, TOKENS), bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    made = np.einsum("hts,shd->thd", shares, v).reshape(TOKENS, -1)
    return made @ w[f"{AT}.attn_output.weight"].T


def fed_forward(n: np.ndarray, w: dict[str, np.ndarray], experts) -> np.ndarray:
    chance = 1 / (1 + np.exp(-(n @ w[f"{AT}.ffn_gate_inp.weight"].T)))
    made = np.zeros_like(n)
    for token, (x, p) in enumerate(zip(n, chance, strict=True)):
        chosen = np.argsort(-(p + w[f"{AT}.exp_probs_b.bias"]))[: experts.used]
        shares = p[chosen] / p[chosen].sum() * experts.scale
        for expert, share in zip(chosen, shares, strict=True):
            gate, up, down = (
                w[f"{AT}.ffn_{p}_exps.weight"][expert] for p in ("gate", "up", "down")
            )
            made[token] += share * (down @ (silu(gate @ x) * (up @ x)))
    gate, up, down = (w[f"{AT}.ffn_{part}_shexp.weight"] for part in ("gate", "up", "down"))
    return made + (silu(n @ gate.T) * (n @ up.T)) @ down.T


def described(path: Path, tokens: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Logits in double precision, as DeepSeek-V3's report and llama.cpp's graph have them."""
    w = {name: array.astype(np.float64) for name, array in floats(path).items()}
    at = f"{AT}.nextn"
    embedding = w.get(f"{at}.embed_tokens.weight", w["token_embd.weight"])
    e = normed(embedding[tokens], w[f"{at}.enorm.weight"])
    h = normed(hidden.astype(np.float64), w[f"{at}.hnorm.weight"])
    x = np.concatenate([e, h], axis=-1) @ w[f"{at}.eh_proj.weight"].T
    x = x + attended(normed(x, w[f"{AT}.attn_norm.weight"]), w)
    n = normed(x, w[f"{AT}.post_attention_norm.weight"])
    x = x + fed_forward(n, w, Model.open(path).config.experts)
    last = w.get(f"{at}.shared_head_norm.weight", w["output_norm.weight"])
    head = w.get(f"{at}.shared_head_head.weight", w["token_embd.weight"])
    return normed(x, last) @ head.T


def logits_of(path: Path, tokens: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    model = Model.open(path).drafting()
    graph = model.graph(tokens=TOKENS, context=16, kv="f32")
    given = {"token": tokens, "pos": np.arange(TOKENS, dtype=np.int32), "hidden": hidden}
    return Reference(graph, model.floats, np.float64).step(**given)["logits"]


@pytest.mark.parametrize("own", [False, True], ids=["the model's matrices", "its own"])
def test_the_block_computes_what_its_description_says(path, tmp_path, own) -> None:
    random = np.random.default_rng(3)
    if own:
        matrix = random.standard_normal((2, VOCABULARY, WIDTH)).astype(np.float32)
        names = ("embed_tokens", "shared_head_head")
        more = {f"{AT}.nextn.{n}.weight": m for n, m in zip(names, matrix, strict=True)}
        more[f"{AT}.nextn.shared_head_norm.weight"] = None
        path = changed(path, tmp_path / "own.gguf", more)
    tokens = random.integers(0, VOCABULARY, TOKENS).astype(np.int32)
    hidden = random.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    wanted = described(path, tokens, hidden)
    np.testing.assert_allclose(logits_of(path, tokens, hidden), wanted, rtol=1e-4, atol=1e-4)


def test_half_a_quantised_matrix_is_its_blocks(tmp_path) -> None:
    config = replace(config_of("glm4moe"), layers=LAYERS, skipped=1, biased=frozenset())
    model = Model.open(synthesize(config, tmp_path / "model.gguf", "Q8_0"))
    joined = model.floats(f"{AT}.nextn.eh_proj.weight")
    block = model.drafting()
    for name, half in (("e_proj", joined[:, :WIDTH]), ("h_proj", joined[:, WIDTH:])):
        assert block.tensors[f"{AT}.nextn.{name}.weight"].dtype == "q8_0"
        assert np.array_equal(block.floats(f"{AT}.nextn.{name}.weight"), half)


def test_latent_attention_has_such_blocks_too(tmp_path) -> None:
    config = replace(config_of("deepseek2"), layers=LAYERS, skipped=1)
    model = Model.open(synthesize(config, tmp_path / "model.gguf", "F32"))
    assert (model.config.layers, model.config.skipped) == (LAYERS, 1)
    graph = model.drafting().graph(tokens=1, context=16)
    assert {state.name for state in graph.states} == {f"${AT}.k", f"${AT}.v"}


def test_a_file_without_such_a_block_is_told_so(path, tmp_path) -> None:
    plain = synthesize("tiny", tmp_path / "plain.gguf")
    with pytest.raises(
        FusecError, match=r"plain.gguf: draft mtp: the file has no block that drafts"
    ):
        Model.open(plain).drafting()
    name = f"{AT}.nextn.eh_proj.weight"
    for wrong, reason in (
        (None, "eh_proj.weight' is missing: block 2 has nothing that drafts tokens"),
        (np.zeros((WIDTH, WIDTH), np.float32), r"should have shape \(96, 192\), found \(96, 96\)"),
    ):
        model = Model.open(changed(path, tmp_path / "wrong.gguf", {name: wrong}))
        with pytest.raises(FusecError, match=reason):
            model.drafting()
    more = {f"{AT}.nextn.more.weight": np.ones(WIDTH, np.float32)}
    with pytest.raises(FusecError, match=r"'blk.2.nextn.more.weight' is not part of a glm4moe"):
        Model.open(changed(path, tmp_path / "more.gguf", more)).drafting()
