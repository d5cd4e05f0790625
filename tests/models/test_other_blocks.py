"""LayerNorm, parallel blocks, and what the files of architectures with these say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.ir import Graph
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.requantize import requantize
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from fusec.passes.pipeline import LEVELS
from fusec.verifier import reference_logits
from tests.gguf_edit import edited

NEW = ("phi2", "stablelm", "starcoder2", "nemotron", "command-r", "cohere2")


def written(
    architecture: str,
    path: Path,
    keys: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    **traits: Any,
) -> Path:
    """A small model, with keys and tensors changed."""
    path.mkdir(exist_ok=True)
    config = replace(config_of(architecture), **traits)
    plain = synthesize(config, path / "plain.gguf", "F32")
    given = {f"{architecture}.{key}": value for key, value in (keys or {}).items()}
    given["general.architecture"] = architecture
    return edited(plain, path / "model.gguf", given, tensors or {})


def graph_of(config: DecoderConfig) -> Graph:
    types = {name: "f32" for name, _ in config.tensor_shapes()}
    return decode_graph(config, types, 1, 16, "f32")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", NEW)
def test_levels_have_the_same_bytes_on_the_cpu(architecture: str, tmp_path: Path) -> None:
    path = written(architecture, tmp_path, layers=1)
    found = []
    for level in LEVELS:
        with driver.load(path, "cpu", context=16, level=level) as engine:
            found.append(engine.logits([1, 5, 9]).tobytes())
    assert len(set(found)) == 1


# --- norms ---------------------------------------------------------------------------------------


def test_the_epsilon_is_that_of_the_kind_of_norm(tmp_path: Path) -> None:
    other = {"attention.layer_norm_rms_epsilon": 0.5}
    path = written("nemotron", tmp_path, other)
    assert Model.open(path).config.norm_eps == pytest.approx(1e-5)
    missing = written("nemotron", tmp_path, other | {"attention.layer_norm_epsilon": None})
    with pytest.raises(FusecError, match=r"nemotron\.attention\.layer_norm_epsilon"):
        Model.open(missing)


def test_an_epsilon_of_nothing_is_named(tmp_path: Path) -> None:
    path = written("nemotron", tmp_path, {"attention.layer_norm_epsilon": 0.0})
    with pytest.raises(FusecError, match=r"nemotron\.attention\.layer_norm_epsilon 0\.0 and"):
        Model.open(path)


def test_a_norm_without_its_bias_has_none(tmp_path: Path) -> None:
    bias = {"blk.1.attn_norm.bias": np.zeros(96, np.float32)}
    config = Model.open(written("command-r", tmp_path, tensors=bias)).config
    assert config.biased == {"blk.1.attn_norm"}
    norms = [node for node in graph_of(config).nodes if node.op == "layer_norm"]
    assert [len(node.inputs) for node in norms] == [2, 3, 2, 2]


@pytest.mark.parametrize(
    ("architecture", "tensor"),
    [
        ("llama", "blk.0.attn_norm.bias"),
        ("stablelm", "blk.0.attn_q_norm.bias"),
        ("command-r", "blk.0.attn_q_norm.weight"),
        ("phi2", "blk.0.ffn_norm.weight"),
        ("nemotron", "blk.0.ffn_gate.weight"),
    ],
)
def test_a_tensor_that_the_graph_would_not_read_is_refused(
    architecture: str, tensor: str, tmp_path: Path
) -> None:
    path = written(architecture, tmp_path, tensors={tensor: np.ones((6, 16), np.float32)})
    with pytest.raises(FusecError, match=f"'{tensor}' is not part of a {architecture} model"):
        Model.open(path)


# --- norms of heads ------------------------------------------------------------------------------


def test_weights_of_each_head_are_rows_in_the_file_and_stay_f32(tmp_path: Path) -> None:
    path = written("stablelm", tmp_path)
    small = requantize(path, tmp_path / "small.gguf", "Q8_0")
    for file in (path, small):
        assert open_gguf(file).tensors["blk.0.attn_q_norm.weight"].shape == (6, 16)
        tensor = Model.open(file).tensors["blk.0.attn_q_norm.weight"]
        assert (tensor.shape, tensor.dtype) == ((96,), "f32")


def test_weights_of_another_number_of_heads_are_refused(tmp_path: Path) -> None:
    wrong = {"blk.0.attn_k_norm.weight": np.ones((6, 16), np.float32)}
    with pytest.raises(FusecError, match=r"attn_k_norm.weight' should have shape \(32,\), found"):
        Model.open(written("stablelm", tmp_path, tensors=wrong))


@pytest.mark.slow
def test_a_deep_command_r_has_norms_of_heads(tmp_path: Path) -> None:
    traits = {"layers": 64, "width": 32, "heads": 2, "kv_heads": 1, "ffn_width": 32}
    path = written("command-r", tmp_path, qk_norms="each", **traits)
    model = Model.open(path)
    assert model.config.qk_norms == "each"
    ids = [3, 1, 4]
    with driver.load(model, "cpu", context=8, kv="f32") as engine:
        found, wanted = engine.logits(ids), reference_logits(model, ids, 8)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)
    with pytest.raises(FusecError, match=r"tensor 'blk\.0\.attn_q_norm\.weight' is missing"):
        Model.open(written("command-r", tmp_path, **traits))


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stablelm_with_two_norms_a_layer_is_not_parallel_whatever_its_key_says(
    tmp_path: Path,
) -> None:
    biased = config_of("nemotron").biased
    keys = {"use_parallel_residual": True}
    path = written("stablelm", tmp_path, keys, parallel=False, qk_norms="", biased=biased)
    model = Model.open(path)
    assert not model.config.parallel and model.config.biased == biased
    ids = [3, 1, 4]
    with driver.load(model, "cpu", context=8, kv="f32") as engine:
        found, wanted = engine.logits(ids), reference_logits(model, ids, 8)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_the_window_of_a_starcoder2_is_not_used(tmp_path: Path) -> None:
    path = written("starcoder2", tmp_path, {"attention.sliding_window": 8})
    assert Model.open(path).config.window == 0
    assert Model.open(path).check_context(None, 512) == 64


@pytest.mark.parametrize("pattern", [4, 2])
def test_only_window_layers_of_a_cohere2_have_rope(pattern: int, tmp_path: Path) -> None:
    keys = {"attention.sliding_window_pattern": pattern} if pattern != 4 else {}
    config = Model.open(written("cohere2", tmp_path, keys)).config
    turned = {node.name for node in graph_of(config).nodes if node.op == "rope"}
    layers = [layer for layer in range(5) if (layer + 1) % pattern]
    assert turned == {f"%blk.{layer}.{part}_rope" for layer in layers for part in "qk"}


@pytest.mark.slow
def test_logits_are_multiplied_by_their_factor(tmp_path: Path) -> None:
    path = written("command-r", tmp_path / "half", {"logit_scale": 0.5}, layers=1)
    plain = written("command-r", tmp_path / "plain", {"logit_scale": None}, layers=1)
    with driver.load(path, "cpu", context=8) as one, driver.load(plain, "cpu", context=8) as two:
        assert (2 * one.logits([1, 5])).tobytes() == two.logits([1, 5]).tobytes()


@pytest.mark.parametrize("architecture", ["cohere2", "gemma3"])
def test_layers_stay_what_they_are_where_no_context_is_longer_than_the_window(
    architecture: str, tmp_path: Path
) -> None:
    """A window that hides nothing still says which layers turn, and by which base."""
    config = Model.open(written(architecture, tmp_path)).config
    wide = Model.open(written(architecture, tmp_path, {"attention.sliding_window": 64})).config
    assert (config.window, wide.window) == (24, 0)
    layers = range(config.layers)
    assert list(map(wide.angles, layers)) == list(map(config.angles, layers))
    assert len({str(config.angles(layer)) for layer in layers}) == 2
