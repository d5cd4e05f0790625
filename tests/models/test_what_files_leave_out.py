"""What a model has where its file says nothing: as llama.cpp has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusec.errors import FusecError
from fusec.models.decoder import DecoderConfig
from fusec.models.model import Model
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from tests.gguf_edit import edited

WINDOW = "attention.sliding_window"
NO_WINDOW = {WINDOW: None, f"{WINDOW}_pattern": None}


def opened(folder: Path, config: DecoderConfig, keys: dict[str, Any]) -> DecoderConfig:
    """The config read from the model's file with other keys of the architecture."""
    path = synthesize(config, folder / "model.gguf", "F32")
    own = {f"{config.architecture}.{name}": value for name, value in keys.items()}
    own["general.architecture"] = config.architecture
    return Model.open(edited(path, folder / "edited.gguf", own)).config


def test_a_gemma3_without_windows_has_one_base(tmp_path: Path) -> None:
    config = config_of("gemma3")
    found = opened(tmp_path, config, NO_WINDOW)
    assert not any(map(found.window_of, range(config.layers)))
    assert [found.angles(n) for n in range(7)] == [{"base": 1e6, "scale": 1.0}] * 7


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 2), ("exaone4", 64)])
def test_old_files_do_not_say_how_long_windows_are(
    architecture: str, layers: int, tmp_path: Path
) -> None:
    config = replace(config_of(architecture), layers=layers, context=8192)
    assert opened(tmp_path, config, NO_WINDOW).window_of(0) == 4096


@pytest.mark.parametrize("architecture", ["cohere2", "gpt-oss"])
def test_others_have_to(architecture: str, tmp_path: Path) -> None:
    wanted = f"metadata key '{architecture}.{WINDOW}' is missing"
    with pytest.raises(FusecError, match=wanted):
        opened(tmp_path, config_of(architecture), {WINDOW: None})


@pytest.mark.parametrize("architecture", ["gemma2", "olmo2", "cohere2", "gpt-oss"])
def test_window_layers_have_the_base_of_others(architecture: str, tmp_path: Path) -> None:
    config = replace(config_of(architecture), window=24)
    same = opened(tmp_path, config, {"rope.freq_base_swa": config.rope_base})
    assert {given["base"] for n in range(same.layers) if (given := same.angles(n))} == {1e4}
    with pytest.raises(FusecError, match=r"rope.freq_base_swa' is 500.0, .* expected 10000.0"):
        opened(tmp_path, config, {"rope.freq_base_swa": 500.0})


@pytest.mark.parametrize("architecture", ["glm4moe", "deepseek2"])
def test_weights_of_experts_are_normalised_where_the_file_says_so(
    architecture: str, tmp_path: Path
) -> None:
    found = opened(tmp_path, config_of(architecture), {"expert_weights_norm": None}).experts
    assert found is not None and not found.normalised


@pytest.mark.parametrize("architecture", ["glm4moe", "qwen3moe", "gpt-oss", "deepseek2"])
def test_the_width_of_experts_may_be_written_for_each_layer(
    architecture: str, tmp_path: Path
) -> None:
    config = config_of(architecture)
    keys = {"expert_feed_forward_length": [64] * (config.layers + config.skipped)}
    assert opened(tmp_path, config, keys).experts == config.experts


@pytest.mark.parametrize(
    ("architecture", "bias"),
    [
        ("gpt-oss", "blk.1.ffn_up_exps"),
        ("gpt-oss", "blk.1.ffn_gate_inp"),
        ("phi2", "output"),
        ("starcoder2", "blk.2.ffn_down"),
        ("nemotron", "output_norm"),
        ("stablelm", "blk.0.attn_norm"),
    ],
)
def test_biases_without_which_a_model_is_another_are_not_left_out(
    architecture: str, bias: str, tmp_path: Path
) -> None:
    path = synthesize(config_of(architecture), tmp_path / "model.gguf", "F32")
    keys = {"general.architecture": architecture}
    without = edited(path, tmp_path / "without.gguf", keys, {f"{bias}.bias": None})
    with pytest.raises(FusecError, match=f"tensor '{bias}.bias' is missing"):
        Model.open(without)
