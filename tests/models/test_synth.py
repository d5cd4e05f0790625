"""Synthetic models: complete, readable, reproducible, and refused cleanly."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize

from fusec.errors import FusecError
from fusec.models import architecture_of
from fusec.models.gguf_file import open_gguf
from fusec.models.gguf_write import gguf_file
from fusec.models.model import Model
from fusec.models.synth import PRESETS, synthesize
from fusec.models.synth_vocab import read_vocabulary
from fusec.models.synth_weights import POOL
from fusec.models.tokenizer import Tokenizer


def test_tiny_model_is_complete(tiny_model: Path) -> None:
    file = open_gguf(tiny_model)
    architecture = architecture_of(file)
    config = architecture.read_config(file)
    architecture.check_tensors(file, config)
    assert replace(config, norm_eps=1e-5) == PRESETS["tiny"]
    assert config.norm_eps == pytest.approx(1e-5)
    assert file.file_bytes < 2_000_000
    assert {tensor.dtype for tensor in file.tensors.values()} == {
        *("iq4_nl", "iq4_xs", "q5_k", "q8_0", "f32")
    }
    assert file.get("general.file_type", int) == 30
    assert file.get("general.quantization_version", int) == 2
    assert len(GGUFReader(tiny_model).tensors) == len(file.tensors)


def test_weights_keep_activations_at_unit_size(tiny_model: Path) -> None:
    for tensor in GGUFReader(tiny_model).tensors:
        values = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type))
        assert np.isfinite(values).all()
        if values.ndim == 1:
            assert values.mean() == pytest.approx(1, abs=0.1)
            continue
        damped = tensor.name.endswith(("attn_output.weight", "ffn_down.weight"))
        gain = values.std() * np.sqrt(values.shape[1]) * (np.sqrt(2 * 8) if damped else 1)
        assert gain == pytest.approx(1, rel=0.05), tensor.name


def test_quick_matrices_are_drawn_from_few_blocks(tmp_path: Path) -> None:
    shape = replace(PRESETS["tiny"], layers=1, width=512, ffn_width=2048, heads=8)
    paths = [tmp_path / f"{n}.gguf" for n in range(3)]
    for path, quick in zip(paths, (True, True, False), strict=True):
        synthesize(shape, path, "IQ4_XS", quick=quick)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    first, plain = (open_gguf(path).tensors for path in paths[1:])
    assert {n: (t.dtype, t.shape) for n, t in first.items()} == {
        n: (t.dtype, t.shape) for n, t in plain.items()
    }
    name = "blk.0.ffn_up.weight"  # four times as large as what is made of it
    assert np.array_equal(first["blk.0.attn_k.weight"].data, plain["blk.0.attn_k.weight"].data)
    blocks = first[name].data.reshape(-1, 136)
    assert len(np.unique(blocks, axis=0)) <= POOL // 256 < len(blocks)
    values = Model.open(paths[0]).floats(name)
    assert values.std() * np.sqrt(512) == pytest.approx(1, rel=0.02)


def test_seeds(tiny_model: Path, tmp_path: Path) -> None:
    again = synthesize("tiny", tmp_path / "again.gguf", "iq4_xs", seed=0)
    assert again.read_bytes() == tiny_model.read_bytes()
    other = open_gguf(synthesize("tiny", tmp_path / "other.gguf", seed=1))
    assert other.fingerprint != open_gguf(again).fingerprint
    deeper = replace(PRESETS["tiny"], layers=9)
    more = open_gguf(synthesize(deeper, tmp_path / "more.gguf"))
    name = "blk.3.attn_q.weight"
    same = open_gguf(again).tensor(name).data
    np.testing.assert_array_equal(more.tensor(name).data, same)
    assert (other.tensor(name).data != same).any()


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_any_number_of_threads_writes_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr("fusec.models.synth.cores", lambda: threads)
    made = synthesize("tiny", tmp_path / "tiny.gguf", seed=0)
    assert made.read_bytes() == tiny_model.read_bytes()


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "IQ4_NL"])
def test_other_mixes(tmp_path: Path, quant: str) -> None:
    file = open_gguf(synthesize("tiny", tmp_path / "m.gguf", quant))
    architecture = architecture_of(file)
    architecture.check_tensors(file, architecture.read_config(file))
    kinds = Counter(tensor.dtype for tensor in file.tensors.values())
    assert kinds[quant.lower()] >= 55


def test_untied_output_and_context(tmp_path: Path) -> None:
    shape = replace(PRESETS["tiny"], tied=False, layers=2)
    file = open_gguf(synthesize(shape, tmp_path / "m.gguf", context=64))
    config = architecture_of(file).read_config(file)
    assert (config.tied, config.layers, config.context) == (False, 2, 64)
    assert file.tensor("output.weight").dtype == "q8_0"
    assert file.tensor("token_embd.weight").dtype == "iq4_nl"


def test_progress_counts_every_weight(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    synthesize("tiny", tmp_path / "m.gguf", progress=lambda *step: seen.append(step))
    assert len(seen) == 74
    assert seen[-1][1] == seen[-1][2]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@pytest.mark.slow
def test_vocabularies(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "smollm2-vocab-only.gguf"
    sources = [original, shared_data / "SmolLM2-135M-Instruct-Tokenizer.json"]
    expected = Tokenizer.from_gguf(open_gguf(original))
    text = "Numbers 123, <|im_start|>user\n naïve 日本"
    for source in sources:
        file = open_gguf(synthesize("tiny", tmp_path / "m.gguf", tokenizer=source))
        found = Tokenizer.from_gguf(file)
        assert found.encode(text) == expected.encode(text)
        assert (found.bos, found.eos, found.stop_ids) == (1, 2, expected.stop_ids)
        assert file.tensor("token_embd.weight").shape[0] == 49152
    stories = shared_data / "stories260K.gguf"
    larger = replace(PRESETS["tiny"], vocab=600)
    file = open_gguf(synthesize(larger, tmp_path / "m.gguf", tokenizer=stories))
    padded = Tokenizer.from_gguf(file)
    assert padded.vocab_size == 600
    assert padded.encode("Once upon") == Tokenizer.from_gguf(open_gguf(stories)).encode("Once upon")
    assert padded.decode([599]) == ""


def test_token_0_may_begin_or_end_texts(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for texts in (["<|im_start|>", "<|im_end|>"], ["<|im_end|>", "<|im_start|>"]):
        ids = {text: token for token, text in enumerate([*texts, "<|endoftext|>", "a"])}
        added = [{"content": text, "id": ids[text], "special": True} for text in texts]
        model = {"vocab": ids, "merges": []}
        pre = {"type": "ByteLevel", "use_regex": True}
        whole = {"model": model, "added_tokens": added, "pre_tokenizer": pre}
        path.write_text(json.dumps(whole))
        found = read_vocabulary(path)
        assert found["tokenizer.ggml.bos_token_id"] == ids["<|im_start|>"]
        assert found["tokenizer.ggml.eos_token_id"] == ids["<|im_end|>"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a BPE tokenizer.json"),
        ("[]", "not a BPE tokenizer.json"),
        (
            '{"model": {"vocab": {}, "merges": []}, "added_tokens": [], '
            '"pre_tokenizer": {"type": "Whitespace"}}',
            r"pre-tokenizer \(Whitespace\) is not supported",
        ),
    ],
)
def test_bad_tokenizer_files(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(FusecError, match=reason):
        synthesize("tiny", tmp_path / "m.gguf", tokenizer=path)
    with pytest.raises(FusecError, match="cannot be read"):
        synthesize("tiny", tmp_path / "m.gguf", tokenizer=tmp_path / "none.json")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("first", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_token_0_begins_and_ends_as_any_other(tmp_path: Path, first: str) -> None:
    controls = sorted(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], key=lambda t: t != first)
    added = [{"content": t, "id": i, "special": True} for i, t in enumerate(controls)]
    data = {
        "model": {"vocab": {"a": 3}, "merges": []},
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "use_regex": True},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    vocabulary = read_vocabulary(path)
    assert vocabulary["tokenizer.ggml.bos_token_id"] == controls.index("<|im_start|>")
    assert vocabulary["tokenizer.ggml.eos_token_id"] == controls.index("<|im_end|>")


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FusecError, match="unknown preset 'huge', known: smollm2-135m"):
        synthesize("huge", tmp_path / "m.gguf")
    with pytest.raises(FusecError, match="unknown quantisation 'Q9', known: F32"):
        synthesize("tiny", tmp_path / "m.gguf", "Q9")
    with pytest.raises(FusecError, match="context is 0, expected 1 to "):
        synthesize("tiny", tmp_path / "m.gguf", context=0)
    with pytest.raises(FusecError, match="cannot be written: No such file or directory"):
        synthesize("tiny", tmp_path / "missing" / "m.gguf")
    with pytest.raises(FusecError, match="cannot be written: it is a folder"):
        synthesize("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FusecError, match="cannot be written: Not a directory"):
        synthesize("tiny", tmp_path / "file" / "m.gguf")


def test_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("precious")

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize("tiny", path, progress=stop)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    file = open_gguf(synthesize("smollm2-135m", tmp_path / "m.gguf"))
    kinds = Counter(tensor.dtype for tensor in file.tensors.values())
    assert kinds == {"f32": 61, "q8_0": 1, "iq4_nl": 180, "iq4_xs": 27, "q5_k": 3}
    assert {name for name, tensor in file.tensors.items() if tensor.dtype == "q5_k"} == {
        f"blk.{layer}.ffn_down.weight" for layer in range(3)
    }


def test_a_disk_without_room_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is buffered may find no room only when the file is closed."""

    def close(self: GGUFWriter) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "close", close)
    with pytest.raises(FusecError, match="x: cannot be written: No space left on device"):
        synthesize("tiny", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_numpys_words_for_a_full_disk_are_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(FusecError, match="9 requested and 2 written, in bytes: is the disk full"),
        gguf_file(tmp_path / "x", "llama"),
    ):
        raise OSError("9 requested and 2 written")
