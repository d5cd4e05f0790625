"""Small models of every architecture: what is written is what is read, and both mean the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusec import driver
from fusec.cli.synth import PRESETS as NAMED
from fusec.models import ARCHITECTURES
from fusec.models.architectures import gemma, llama, olmo, qwen
from fusec.models.decoder import DecoderConfig
from fusec.models.model import Model
from fusec.models.presets import PRESETS
from fusec.models.synth import synthesize
from fusec.verifier import reference_logits

LAYERS = 3
BIASED = frozenset(f"blk.{n}.attn_{part}" for n in range(LAYERS) for part in "qkv")
TRAITS: dict[str, dict[str, Any]] = {
    "llama": {
        "biased": frozenset({"blk.1.ffn_down", "blk.2.attn_output", "output"}),
        "tied": False,
    },
    "ernie4_5": {},
    "smollm3": {"layers": 4, **llama.SMOLLM3},
    "qwen2": {"biased": BIASED, **qwen.QWEN2},
    "qwen3": {"head_dim": 32, "rope_dims": 32, **qwen.QWEN3},
    "gemma": {"embedding_scale": 96**0.5, **gemma.GEMMA},
    "gemma3": {
        **{"embedding_scale": 96**0.5, "window": 24, "window_pattern": gemma.PATTERN},
        **{"window_base": gemma.WINDOW_BASE, "layers": 7, "rope_base": 1e6},
        **gemma.GEMMA3,
    },
    "granite": {
        **{"embedding_scale": 12.0, "residual_scale": 0.25, "logit_scale": 0.125},
        "attention_scale": 0.0625,
    },
    "olmo2": {**olmo.OLMO2},
    "exaone4": {"rope_factors": True, **olmo.EXAONE4},
}


def config_of(architecture: str) -> DecoderConfig:
    given = {"layers": LAYERS, "vocab": 320, "context": 64, "architecture": architecture}
    return replace(PRESETS["tiny"], **(given | TRAITS[architecture]))


def test_there_is_a_model_of_each() -> None:
    assert TRAITS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("architecture", TRAITS)
def test_a_model_is_read_as_it_was_written_and_agrees_with_the_reference(
    architecture: str, tmp_path: Path
) -> None:
    config = config_of(architecture)
    path = synthesize(config, tmp_path / "model.gguf", "F32")
    model = Model.open(path)
    rounded = {  # f32 in the file
        name: pytest.approx(getattr(config, name), rel=1e-6)
        for name in ("norm_eps", "logit_scale", "residual_scale", "embedding_scale")
    }
    assert vars(model.config) == vars(config) | rounded
    ids = [int(i) for i in np.random.default_rng(3).integers(0, config.vocab, 20)]
    wanted = reference_logits(model, ids, 24)
    with driver.load(model, "cpu", context=24, kv="f32") as engine:
        found = engine.logits(ids)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_the_command_names_all_presets() -> None:
    assert NAMED.rstrip(".").replace(" or ", ", ").split(", ") == list(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_of_architectures_that_there_are(preset: str) -> None:
    config = PRESETS[preset]
    assert config.architecture in ARCHITECTURES
    shapes = dict(config.tensor_shapes())
    assert config.biased <= {name.removesuffix(".weight") for name in shapes}
    assert config.heads % config.kv_heads == 0
