"""An opened model file: vocabulary, stop tokens, contexts, weights."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from fusec.errors import FusecError
from fusec.models.model import Model
from tests.gguf_edit import edited


def test_stop_ids_are_the_tokenizers(tiny_model: Path, shared_data: Path) -> None:
    for path in (tiny_model, shared_data / "stories260K.gguf"):
        model = Model.open(path)
        assert model.stop_ids == model.tokenizer.stop_ids
        assert model.stop_ids


def test_stop_ids_need_no_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    whole = Model.open(tiny_model)
    keys = {"tokenizer.ggml.pre": "martian", "tokenizer.ggml.eos_token_id": 9}
    odd = Model.open(edited(tiny_model, tmp_path / "odd.gguf", keys))
    assert odd.has_vocabulary
    named = {whole.tokenizer.tokens.index(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert odd.stop_ids == named | {9}
    with pytest.raises(FusecError, match="'martian' is not supported"):
        _ = odd.tokenizer
    beyond = {"tokenizer.ggml.eos_token_id": 512}
    assert Model.open(edited(tiny_model, tmp_path / "far.gguf", beyond)).stop_ids == named


@pytest.mark.parametrize("kind", ["none", "no_vocab", None])
def test_files_without_a_vocabulary(tiny_model: Path, tmp_path: Path, kind: str | None) -> None:
    keys = {key: None for key in Model.open(tiny_model).file.metadata if "tokenizer" in key}
    model = Model.open(
        edited(tiny_model, tmp_path / "m.gguf", keys | {"tokenizer.ggml.model": kind})
    )
    assert not model.has_vocabulary
    assert model.stop_ids == frozenset()


def test_the_context_is_bounded_by_training(tiny_model: Path) -> None:
    model = Model.open(tiny_model)
    assert model.check_context(None, 100) == 100
    assert model.check_context(None, 100_000) == 512
    assert model.check_context(512, 1) == 512
    for wanted in (0, -1, 513):
        with pytest.raises(FusecError, match=f"a context from 1 to 512, .*, found {wanted}"):
            model.check_context(wanted, 1)


def test_weights_raw_and_decoded(tiny_model: Path) -> None:
    model = Model.open(tiny_model)
    for tensor in GGUFReader(tiny_model).tensors:
        assert model.raw(tensor.name).tobytes() == tensor.data.tobytes()
        wanted = dequantize(tensor.data, tensor.tensor_type)
        found = model.floats(tensor.name)
        assert found.dtype == np.float32
        assert found.tobytes() == wanted.reshape(found.shape).tobytes()
