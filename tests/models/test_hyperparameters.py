"""Keys of the architecture: read in every legal form, and refused by name if nobody knows them."""

import re
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType as T

from fusec.errors import FusecError
from fusec.models import decoder, decoder_keys
from fusec.models.gguf_file import open_gguf
from fusec.models.hyperparameters import Hyperparameters
from fusec.models.model import Model
from tests import small_llama
from tests.gguf_bytes import INTEGERS

Changes = dict[str, tuple[T, Any] | None]


def config(tmp_path: Path, changes: Changes) -> decoder.DecoderConfig:
    found = Model.open(small_llama.write(tmp_path / "m.gguf", changes)).config
    assert isinstance(found, decoder.DecoderConfig)
    return found


def refused(tmp_path: Path, changes: Changes) -> str:
    path = small_llama.write(tmp_path / "m.gguf", changes)
    with pytest.raises(FusecError) as caught:
        Model.open(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


F = T.FLOAT32
FACTOR, OLD = "llama.rope.scaling.factor", "llama.rope.scale_linear"


@pytest.mark.parametrize(
    ("kind", "keys", "scale"),
    [
        (None, {}, 1.0),
        ("linear", {}, 1.0),
        ("linear", {FACTOR: 4.0}, 0.25),
        (None, {FACTOR: 4.0}, 0.25),
        (None, {OLD: 4.0}, 0.25),
        ("linear", {OLD: 4.0}, 0.25),
        (None, {FACTOR: 2.0, OLD: 4.0}, 0.5),
        ("none", {FACTOR: 4.0, OLD: 4.0}, 1.0),
    ],
)
def test_linear_scaling_in_all_its_spellings(
    tmp_path: Path, kind: str | None, keys: dict[str, float], scale: float
) -> None:
    changes: Changes = {key: (F, value) for key, value in keys.items()}
    if kind is not None:
        changes["llama.rope.scaling.type"] = (T.STRING, kind)
    assert config(tmp_path, changes).rope_scale == scale


@pytest.mark.parametrize("kind", INTEGERS)
def test_numbers_of_every_width(tmp_path: Path, kind: T) -> None:
    plain = config(tmp_path, {})
    changes: Changes = {
        key: (kind, value) for key, (_, value) in small_llama.KEYS.items() if isinstance(value, int)
    }
    changes["llama.attention.layer_norm_rms_epsilon"] = (T.FLOAT64, 1e-5)
    changes["llama.rope.freq_base"] = (kind, 100)
    found = config(tmp_path, changes)
    assert found.norm_eps == pytest.approx(plain.norm_eps)
    assert found.rope_base == 100.0
    assert (found.layers, found.width, found.heads) == (plain.layers, plain.width, plain.heads)


@pytest.mark.parametrize("kind", INTEGERS)
def test_one_number_a_layer(tmp_path: Path, kind: T) -> None:
    changes: Changes = {
        "llama.attention.head_count": (kind, [4, 4]),
        "llama.attention.head_count_kv": (kind, [2, 2]),
        "llama.feed_forward_length": (kind, [96, 96]),
    }
    assert config(tmp_path, changes) == config(tmp_path, {})


@pytest.mark.parametrize(
    "name", ["attention.head_count", "attention.head_count_kv", "feed_forward_length"]
)
def test_layers_that_differ_are_refused(tmp_path: Path, name: str) -> None:
    key = f"llama.{name}"
    message = refused(tmp_path, {key: (T.UINT32, [4, 2])})
    assert f"{key} is 4 in one layer and 2 in another, expected the same in all" in message
    assert f"{key} has 3 numbers, for 2 layers" in refused(tmp_path, {key: (T.INT32, [4, 4, 4])})
    assert f"{key} has 0 numbers" in refused(tmp_path, {key: (T.INT32, [])})
    assert f"{key} is 0, expected at least 1" in refused(tmp_path, {key: (T.INT32, [0, 0])})
    assert f"{key} should hold int, found float" in refused(tmp_path, {key: (F, [4.0, 4.0])})


HARMLESS: dict[str, tuple[T, Any]] = {
    "llama.vocab_size": (T.UINT32, 50),
    "llama.attention.key_length": (T.UINT32, 16),
    "llama.attention.value_length": (T.UINT32, 16),
    "llama.attention.causal": (T.BOOL, 1),
    "llama.attention.scale": (F, 0.25),
    "llama.attention.layer_norm_epsilon": (F, 1e-6),
    "llama.attention.sliding_window": (T.UINT32, 64),
    "llama.rope.scaling.finetuned": (T.BOOL, 1),
    "llama.rope.scaling.original_context_length": (T.UINT32, 32),
    "llama.rope.scaling.attn_factor": (F, 1.0),
    "llama.rope.scaling.yarn_beta_fast": (F, 32.0),
    "llama.tensor_data_layout": (T.STRING, "Meta AI original pth"),
    "llama.expert_count": (T.UINT32, 0),
    "llama.expert_used_count": (T.UINT32, [0, 0]),
    "llama.logit_scale": (F, 1.0),
    "llama.embedding_length_out": (T.UINT32, 64),
    "llama.use_parallel_residual": (T.BOOL, 0),
}


def test_keys_that_change_nothing_are_known(tmp_path: Path) -> None:
    plain = config(tmp_path, {})
    assert config(tmp_path, dict(HARMLESS)) == plain
    zeros: Changes = {
        "llama.attention.sliding_window": (T.UINT32, 0),
        "llama.attention.scale": (F, 0.0),
        "llama.attention.causal": (T.UINT8, 1),
        "llama.residual_scale": (F, 0.0),
        "llama.nextn_predict_layers": (T.UINT32, 0),
        "llama.use_parallel_residual": (T.UINT32, 0),
    }
    assert config(tmp_path, zeros) == plain


@pytest.mark.parametrize(
    ("key", "given", "reason"),
    [
        ("llama.attention.causal", (T.BOOL, 0), "is False, which is not supported: expected True"),
        ("llama.attention.scale", (F, 0.3), "expected 0 or 0.25"),
        ("llama.rope.scaling.attn_factor", (F, 1.5), "expected 1.0"),
        ("llama.attn_logit_softcapping", (F, 30.0), "is 30.0"),
        ("llama.final_logit_softcapping", (T.FLOAT64, float("nan")), "is nan"),
        ("llama.logit_scale", (F, 0.0625), "is 0.0625"),
        ("llama.expert_used_count", (T.UINT32, [0, 2]), "is 2"),
        ("llama.nextn_predict_layers", (T.UINT32, 1), "is 1"),
        ("llama.embedding_length_out", (T.UINT32, 32), "is 32"),
        ("llama.hidden_activation", (T.STRING, "gelu"), "is 'gelu'"),
        ("llama.rope.scaling.type", (T.STRING, "dynamic"), "'dynamic' is not supported"),
        ("llama.rope.scaling.type", (T.STRING, "su"), "'su' is not supported"),
        ("llama.rope.scale_linear", (F, -2.0), "is -2.0, expected above 0"),
        ("llama.rope.scaling.factor", (F, float("inf")), "is inf, expected a finite number"),
        ("llama.rope.freq_base", (F, float("nan")), "is nan, expected a finite number"),
        ("llama.rope.scaling.alpha", (F, 0.0), "is not known and may change what the model"),
        ("llama.attention.temperature_scale", (F, 0.0), "is not known"),
        ("llama.x" + "y" * 300, (T.UINT8, 1), r"'llama\.xy{50,60}\.\.\. is not known"),
    ],
)
def test_what_would_change_numbers_is_refused(
    tmp_path: Path, key: str, given: tuple[T, Any], reason: str
) -> None:
    message = refused(tmp_path, {key: given})
    assert key[:40] in message
    assert re.search(reason, message)


def test_several_unknown_keys_are_counted(tmp_path: Path) -> None:
    changes: Changes = {f"llama.new.{i}": (T.UINT8, i) for i in range(3)}
    assert "metadata key 'llama.new.0' (and 2 more) is not known" in refused(tmp_path, changes)


def test_keys_of_others_are_nobodys_business(tmp_path: Path) -> None:
    others: Changes = {"qwen2.rope.freq_base": (F, 1.0), "general.x": (F, 1.0), "llama": (F, 2.0)}
    assert config(tmp_path, others) == config(tmp_path, {})


def test_looking_is_not_reading(tmp_path: Path) -> None:
    keys = Hyperparameters(open_gguf(small_llama.write(tmp_path / "m.gguf")))
    for name in small_llama.KEYS:
        if name.startswith("llama."):
            assert keys.has(name.removeprefix("llama."))
    with pytest.raises(FusecError, match=r"'llama\.block_count' \(and 6 more\) is not known"):
        keys.refuse_unknown()
    keys.ignore(name.removeprefix("llama.") for name in small_llama.KEYS)
    keys.refuse_unknown()


def test_the_lists_of_known_keys_do_not_meet() -> None:
    assert not set(decoder_keys.CHANGE_NOTHING) & set(decoder_keys.NEUTRAL)


def test_a_damaged_number_of_layers_ends_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, {"llama.block_count": (T.UINT64, (1 << 64) - 1)})
    assert "tensor 'blk.2.attn_norm.weight' is missing" in message
