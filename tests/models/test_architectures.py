"""Small models of every architecture: what is written is what is read, and both mean the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.models import ARCHITECTURES
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_graph import decode_graph
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.positions import Yarn
from fusec.models.presets import PRESETS
from fusec.models.requantize import requantize
from fusec.models.small import TRAITS, config_of
from fusec.models.synth import synthesize
from fusec.verifier import reference_logits
from tests.gguf_edit import edited


def test_there_is_a_model_of_each() -> None:
    assert TRAITS.keys() == ARCHITECTURES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TRAITS)
def test_a_model_is_read_as_it_was_written_and_agrees_with_the_reference(
    architecture: str, tmp_path: Path
) -> None:
    config = config_of(architecture)
    path = synthesize(architecture, tmp_path / "model.gguf", "F32")
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "packed"),
    [("llama", {"attn_qkv"}), ("qwen2", {"attn_qkv"}), ("phi3", {"attn_qkv", "ffn_up"})],
)
def test_packed_matrices_are_taken_apart(architecture: str, packed: set[str], tmp_path) -> None:
    apart = replace(config_of(architecture), packed=frozenset())
    plain = synthesize(apart, tmp_path / "plain.gguf", "F32")
    config = replace(apart, packed=frozenset(packed))
    whole = synthesize(config, tmp_path / "packed.gguf", "F32")
    assert "blk.0.attn_q.weight" not in open_gguf(whole).tensors
    assert Model.open(whole).config.packed == packed
    with driver.load(plain, "cpu", context=24) as one, driver.load(whole, "cpu", context=24) as two:
        assert one.logits([1, 5, 9]).tobytes() == two.logits([1, 5, 9]).tobytes()


@pytest.mark.slow
def test_a_packed_model_stays_packed_when_it_is_quantised(tmp_path: Path) -> None:
    whole = synthesize(replace(config_of("phi3"), layers=1), tmp_path / "packed.gguf", "F32")
    small = requantize(whole, tmp_path / "small.gguf", "Q8_0")
    assert open_gguf(small).tensors.keys() == open_gguf(whole).tensors.keys()
    assert Model.open(small).tensors["blk.0.ffn_gate.weight"].dtype == "q8_0"
    with driver.load(whole, "cpu", context=24) as one, driver.load(small, "cpu", context=24) as two:
        wanted = one.logits([1, 5, 9])
        assert np.linalg.norm(two.logits([1, 5, 9]) - wanted) < 0.02 * np.linalg.norm(wanted)


def test_no_matrices_are_packed_where_each_has_a_factor(tmp_path: Path) -> None:
    config = replace(config_of("phi3"), layers=1, width=128, heads=8)
    model = Model.open(synthesize(config, tmp_path / "model.gguf", "NVFP4"))
    assert not model.config.packed and "blk.0.attn_k" in model.config.scaled


def test_a_packed_matrix_of_other_rows_is_refused(tmp_path: Path) -> None:
    plain = synthesize(replace(config_of("phi3"), layers=1), tmp_path / "plain.gguf", "F32")
    wrong = {"blk.0.ffn_up.weight": np.zeros((300, 96), np.float32)}
    keys = {"general.architecture": "phi3"}
    path = edited(plain, tmp_path / "wrong.gguf", keys, wrong)
    message = r"'blk.0.ffn_up.weight' should have 512 rows, of ffn_gate, ffn_up, found 300"
    with pytest.raises(FusecError, match=message):
        Model.open(path)


def test_yarn_leaves_quick_pairs_alone_and_scales_slow_ones() -> None:
    """For Qwen 2.5 at four times its 32,768 tokens: 23 pairs of 64 are left, from 40 on all."""
    factors = Yarn(4.0, 32768).factors(128, 1e6)
    assert factors.dtype == np.float32 and len(factors) == 64
    assert (factors[:24] == 1).all() and (factors[40:] == 4).all()
    between = factors[24:40]
    assert (np.diff(between) > 0).all() and between[0] > 1 and between[-1] < 4
    assert Yarn(4.0, 32768).magnitude == pytest.approx(1.1386294)


def test_a_multiplier_takes_yarns_magnitude_out_of_queries_and_keys() -> None:
    assert Yarn(4.0, 32768, multiplier=1.0).magnitude == 1.0
    assert Yarn(4.0, 32768, multiplier=0.5).magnitude == pytest.approx(1.1386294 / 1.0693147)


@pytest.mark.slow
def test_yarn_lengthens_the_turned_part_of_a_head_alone(tmp_path: Path) -> None:
    """As in Phi 4 mini, with LongRoPE. Of whole heads the scores' scale has it."""
    yarn = Yarn(4.0, 16)
    whole = replace(config_of("phi3"), layers=1, yarn=yarn, magnitude=yarn.magnitude)
    path = synthesize(replace(whole, rope_dims=8), tmp_path / "model.gguf", "F32")
    model = Model.open(path)
    assert magnitudes(model.config) == ([yarn.magnitude] * 2, [0.25])
    scale = pytest.approx(0.25 * yarn.magnitude**2)
    assert magnitudes(whole) == ([1.0] * 2, [scale])
    ids = [3, 1, 4, 1, 5]
    with driver.load(model, "cpu", context=8, kv="f32") as engine:
        found, wanted = engine.logits(ids), reference_logits(model, ids, 8)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def magnitudes(config: DecoderConfig) -> tuple[list[float], list[float]]:
    """What a step's RoPE multiplies by, and its attention."""
    types = {name: "f32" for name, _ in config.tensor_shapes()}
    nodes = decode_graph(config, types, 1, 8, "f32").nodes
    turns = [node["magnitude"] for node in nodes if node.op == "rope"]
    return turns, [node["scale"] for node in nodes if node.op == "attention"]


def test_window_layers_with_a_base_of_their_own_are_not_stretched(tmp_path: Path) -> None:
    """As in OLMo 3, which has YaRN in every fourth layer only."""
    yarn = Yarn(4.0, 32)
    windows = {"window": 24, "full_layers": frozenset({3}), "window_base": 1e4}
    config = replace(config_of("olmo2"), layers=4, yarn=yarn, magnitude=yarn.magnitude, **windows)
    types = {name: "f32" for name, _ in config.tensor_shapes()}
    turns = [n for n in decode_graph(config, types, 1, 24, "f32").nodes if n.op == "rope"]
    assert [len(n.inputs) for n in turns] == [2] * 6 + [3] * 2
    model = Model.open(synthesize(config, tmp_path / "model.gguf", "F32"))
    assert model.config == replace(config, norm_eps=model.config.norm_eps)


def test_yarn_where_windows_have_no_base_of_their_own_is_refused(tmp_path: Path) -> None:
    config = replace(config_of("llama"), window=24, yarn=Yarn(4.0, 32))
    with pytest.raises(FusecError, match=r"scaling.type: YaRN in layers with windows is not"):
        Model.open(synthesize(config, tmp_path / "model.gguf", "F32"))


def test_temperature_without_the_context_it_counts_in_is_refused(tmp_path: Path) -> None:
    plain = synthesize(replace(config_of("mistral3"), yarn=None), tmp_path / "model.gguf", "F32")
    with pytest.raises(FusecError, match=r"is 0.5, expected mistral3\.rope\.scaling\.or"):
        Model.open(plain)


def test_longrope_has_factors_for_short_and_for_long_contexts() -> None:
    config = replace(config_of("phi3"), original=32)
    names = {"rope_factors_short.weight", "rope_factors_long.weight"}
    assert names <= dict(config.tensor_shapes()).keys()
    for context, name in ((32, "rope_factors_short.weight"), (33, "rope_factors_long.weight")):
        types = {name: "f32" for name, _ in config.tensor_shapes()}
        graph = decode_graph(config, types, 1, context, "f32")
        assert {w.name[1:] for w in graph.weights} & names == {name}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_of_architectures_that_there_are(preset: str) -> None:
    config = PRESETS[preset]
    assert config.architecture in ARCHITECTURES
    shapes = dict(config.tensor_shapes())
    assert config.biased <= {name.removesuffix(".weight") for name in shapes}
    assert config.heads % config.kv_heads == 0
