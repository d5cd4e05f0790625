"""Hyperparameters of llama models, and the refusal of files that are not quite one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from fusec.errors import FusecError
from fusec.models import architecture_of
from fusec.models.decoder import DecoderConfig
from fusec.models.decoder_tensors import check_tensors
from fusec.models.gguf_file import GGUFFile, open_gguf

COUNTS = {
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 12,
    "llama.attention.head_count": 2,
}
REALS = {"llama.attention.layer_norm_rms_epsilon": 1e-5}
SHAPES = {
    "token_embd.weight": (10, 8),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (8, 8),
    "blk.0.attn_v.weight": (8, 8),
    "blk.0.attn_output.weight": (8, 8),
    "blk.0.ffn_norm.weight": (8,),
    "blk.0.ffn_gate.weight": (12, 8),
    "blk.0.ffn_up.weight": (12, 8),
    "blk.0.ffn_down.weight": (8, 12),
    "output_norm.weight": (8,),
}

Make = Callable[..., GGUFFile]


def config_of(file: GGUFFile) -> DecoderConfig:
    config = architecture_of(file).read_config(file)
    assert isinstance(config, DecoderConfig)
    return config


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a small llama file; keywords change keys, tensor shapes and tensor types."""

    def write(
        keys: dict[str, int | float | str | None] | None = None,
        shapes: dict[str, tuple[int, ...] | None] | None = None,
        half: tuple[str, ...] = (),
    ) -> GGUFFile:
        path = tmp_path / "model.gguf"
        writer = GGUFWriter(path, "llama")
        for key, value in {**COUNTS, **REALS, **(keys or {})}.items():
            match value:
                case int():
                    writer.add_uint32(key, value)
                case float():
                    writer.add_float32(key, value)
                case str():
                    writer.add_string(key, value)
        for name, shape in {**SHAPES, **(shapes or {})}.items():
            if shape is not None:
                dtype = np.float16 if name in half else np.float32
                writer.add_tensor(name, np.zeros(shape, dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return open_gguf(path)

    return write


def test_defaults(make: Make) -> None:
    file = make()
    config = config_of(file)
    assert (config.kv_heads, config.head_dim, config.rope_dims) == (2, 4, 4)
    assert (config.rope_base, config.rope_scale, config.rope_factors) == (10000.0, 1.0, False)
    assert config.tied
    assert config.vocab == 10
    check_tensors(file, config)


def test_stated_values_win(make: Make) -> None:
    keys = {
        **{"llama.attention.head_count_kv": 1, "llama.attention.key_length": 6},
        **{"llama.rope.dimension_count": 2, "llama.rope.freq_base": 500.0},
        **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
    }
    shapes = {
        **{"blk.0.attn_q.weight": (12, 8), "blk.0.attn_k.weight": (6, 8)},
        **{"blk.0.attn_v.weight": (6, 8), "blk.0.attn_output.weight": (8, 12)},
        **{"rope_freqs.weight": (1,), "output.weight": (10, 8)},
    }
    file = make(keys, shapes)
    config = config_of(file)
    assert (config.kv_heads, config.head_dim, config.kv_width) == (1, 6, 6)
    assert (config.rope_dims, config.rope_base, config.rope_scale) == (2, 500.0, 0.25)
    assert config.rope_factors
    assert not config.tied
    check_tensors(file, config)


def test_real_files(shared_data: Path) -> None:
    stories = open_gguf(shared_data / "stories260K.gguf")
    config = config_of(stories)
    assert (config.layers, config.width, config.ffn_width, config.vocab) == (5, 64, 172, 512)
    assert (config.heads, config.kv_heads, config.head_dim, config.context) == (8, 4, 8, 512)
    assert config.tied
    check_tensors(stories, config)
    vocabulary = open_gguf(shared_data / "smollm2-vocab-only.gguf")
    assert config_of(vocabulary).vocab == 49152
    with pytest.raises(FusecError, match=r"tensor 'token_embd\.weight' is missing"):
        check_tensors(vocabulary, config_of(vocabulary))


@pytest.mark.parametrize("key", [*COUNTS, *REALS])
def test_missing_key(make: Make, key: str) -> None:
    with pytest.raises(FusecError, match=f"model.gguf: metadata key '{key}' is missing"):
        config_of(make({key: None}))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"llama.block_count": 0}, "llama.block_count is 0, expected at least 1"),
        ({"llama.block_count": "many"}, "should be int, found str"),
        ({"llama.attention.head_count": 3}, "8 is not a multiple of 3 heads"),
        ({"llama.attention.head_count_kv": 3}, "head_count_kv: 2 heads cannot share 3 key"),
        ({"llama.rope.dimension_count": 3}, "dimension_count is 3, expected an even number"),
        ({"llama.rope.dimension_count": 6}, "up to the head size 4"),
        ({"llama.rope.scaling.type": "dynamic"}, "'dynamic' is not supported, expected 'none'"),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.0},
            "factor is 0.0, expected above 0",
        ),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "should be above 0"),
        (
            {"llama.attention.value_length": 2},
            "value_length: values of 2 elements beside keys of",
        ),
        ({"llama.expert_count": 8}, "'llama.expert_used_count' is missing"),
    ],
)
def test_bad_metadata(make: Make, keys: dict[str, int | float | str], reason: str) -> None:
    with pytest.raises(FusecError, match=reason):
        config_of(make(keys))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "token_embd.weight"])
def test_missing_tensor_and_wrong_shape(make: Make, name: str) -> None:
    file = make(shapes={name: None})
    with pytest.raises(FusecError, match=f"tensor '{name}' is missing"):
        check_tensors(file, config_of(file))
    file = make(shapes={name: (3, 5)})
    with pytest.raises(FusecError, match=rf"'{name}' should have shape .*, found \(3, 5\)"):
        check_tensors(file, config_of(file))


def test_biases_are_taken_where_they_are(make: Make) -> None:
    file = make(shapes={"blk.0.attn_q.bias": (8,), "blk.0.ffn_down.bias": (8,)})
    config = config_of(file)
    assert config.biased == {"blk.0.attn_q", "blk.0.ffn_down"}
    check_tensors(file, config)
    wrong = make(shapes={"blk.0.ffn_down.bias": (12,)})
    with pytest.raises(FusecError, match=r"'blk\.0\.ffn_down\.bias' should have shape \(8,\)"):
        check_tensors(wrong, config_of(wrong))


def test_windows(make: Make) -> None:
    """A window as long as the context hides nothing."""
    config = config_of(make({"llama.attention.sliding_window": 40}))
    assert [config.window_of(layer) for layer in range(config.layers)] == [40] * config.layers
    assert config_of(make({"llama.attention.sliding_window": 64})).window_of(0) == 0


def test_other_tensors(make: Make) -> None:
    file = make(half=("blk.0.ffn_norm.weight", "blk.0.attn_q.weight"))
    with pytest.raises(FusecError, match=r"ffn_norm\.weight' should be f32, found f16"):
        check_tensors(file, config_of(file))
    for name in ("blk.0.attn_q_norm.weight", "blk.0.attn_norm.bias", "blk.0.attn_rot.bias"):
        file = make(shapes={name: (8,)})
        with pytest.raises(FusecError, match=rf"'{name}' is not part of a llama model"):
            check_tensors(file, config_of(file))
    file = make(shapes={"rope_freqs.weight": (7,)})
    with pytest.raises(FusecError, match=r"'rope_freqs\.weight' should have shape \(2,\)"):
        check_tensors(file, config_of(file))
