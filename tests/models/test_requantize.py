"""`requantize`: types by the mix, values by the encoders, everything else as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf import GGUFValueType as T
from gguf.quants import dequantize

from fusec.errors import FusecError
from fusec.models import architecture_of
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.quantize import quantize
from fusec.models.requantize import requantize
from fusec.models.synth import PRESETS, synthesize
from tests import small_llama
from tests.gguf_edit import edited

SHAPE = replace(PRESETS["tiny"], layers=2, width=256, ffn_width=512, vocab=300, head_dim=32,
                rope_dims=32, heads=8, kv_heads=4)  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(SHAPE, tmp_path_factory.mktemp("plain") / "m.gguf", quant="F16")


def test_tensors_are_those_of_the_mix_and_the_rest_is_kept(plain: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = requantize(plain, tmp_path / "q.gguf", "q4_k_m", progress=lambda *s: steps.append(s))
    before, after = open_gguf(plain), open_gguf(path)
    architecture = architecture_of(after)
    assert architecture.read_config(after) == architecture.read_config(before)
    assert after.get("general.file_type", int) == 15
    changed = {"general.file_type"}
    assert set(after.metadata) == set(before.metadata)
    for key in set(before.metadata) - changed:
        assert after.metadata[key] == before.metadata[key]
        assert after.metadata.type_of(key) == before.metadata.type_of(key)
    assert list(after.tensors) == list(before.tensors)
    assert after.tensor("blk.1.ffn_down.weight").dtype == "q6_k"
    assert after.tensor("blk.1.ffn_up.weight").dtype == "q4_k"
    assert after.tensor("blk.0.attn_norm.weight").data.tobytes() == (
        before.tensor("blk.0.attn_norm.weight").data.tobytes()
    )
    source = before.tensor("blk.0.attn_q.weight").data.view(np.float16).astype(np.float32)
    assert np.array_equal(after.tensor("blk.0.attn_q.weight").data, quantize(source, "q4_k"))
    assert steps[-1][1] == steps[-1][2]
    assert len(GGUFReader(path).tensors) == len(after.tensors)


def test_nvfp4_matrices_come_with_their_factor(plain: Path, tmp_path: Path) -> None:
    path = requantize(plain, tmp_path / "q.gguf", "NVFP4")
    model = Model.open(path)
    assert "blk.1.ffn_up" in model.config.scaled
    name = "blk.1.ffn_up.weight"
    raw = model.raw(name)
    values = dequantize(raw, GGMLQuantizationType.NVFP4) * model.floats("blk.1.ffn_up.scale")
    wanted = Model.open(plain).floats(name)
    assert np.linalg.norm(values - wanted) < 0.1 * np.linalg.norm(wanted)
    assert np.abs(values).max() == pytest.approx(np.abs(wanted).max(), rel=0.1)


def test_a_factor_that_is_read_is_multiplied_in(plain: Path, tmp_path: Path) -> None:
    factors = requantize(plain, tmp_path / "n.gguf", "NVFP4")
    back = requantize(factors, tmp_path / "f.gguf", "F32")
    model, other = Model.open(back), Model.open(factors)
    assert not model.config.scaled and not [n for n in model.file.tensors if "scale" in n]
    name = "blk.0.attn_k.weight"
    factor = other.floats("blk.0.attn_k.scale")
    assert np.array_equal(model.floats(name), other.floats(name) * factor)


def test_what_is_quantised_is_refused_unless_it_stays(tmp_path: Path, plain: Path) -> None:
    first = requantize(plain, tmp_path / "a.gguf", "Q8_0")
    with pytest.raises(FusecError, match=r"a\.gguf: tensor 'token_embd\.weight' is q8_0 already"):
        requantize(first, tmp_path / "b.gguf", "Q4_0")
    assert not (tmp_path / "b.gguf").exists()
    same = requantize(first, tmp_path / "c.gguf", "Q8_0")
    assert same.read_bytes() == first.read_bytes()
    twice = requantize(first, tmp_path / "d.gguf", "Q4_0", again=True)
    assert open_gguf(twice).tensor("blk.0.ffn_up.weight").dtype == "q4_0"


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M", "IQ2_XXS", "TQ2_0", "BF16"])
def test_f32_holds_every_type(plain: Path, tmp_path: Path, quant: str) -> None:
    small = Model.open(requantize(plain, tmp_path / "q.gguf", quant, search="quick"))
    whole = Model.open(requantize(small.file.path, tmp_path / "f.gguf", "F32"))
    assert {tensor.dtype for tensor in whole.file.tensors.values()} == {"f32"}
    for name in small.file.tensors:
        assert whole.floats(name).tobytes() == small.floats(name).tobytes()


def test_f16_does_not_hold_every_type(plain: Path, tmp_path: Path) -> None:
    small = requantize(plain, tmp_path / "q.gguf", "Q8_0")
    with pytest.raises(FusecError, match="is q8_0 already"):
        requantize(small, tmp_path / "h.gguf", "F16")


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_tensors_lie_where_a_reader_looks(tmp_path: Path, alignment: int) -> None:
    source = small_llama.write(tmp_path / "m.gguf", alignment=alignment)
    copy = requantize(source, tmp_path / "q.gguf", "Q8_0")
    before, after = Model.open(source), Model.open(copy)
    assert "general.alignment" not in after.file.metadata
    assert after.config == before.config
    theirs = {tensor.name: tensor for tensor in GGUFReader(copy).tensors}
    for name, tensor in after.file.tensors.items():
        assert tensor.offset % 32 == 0
        assert theirs[name].data.tobytes() == tensor.data.tobytes()
        assert np.abs(after.floats(name) - before.floats(name)).max() < 0.01


def test_every_form_of_metadata_is_kept(tmp_path: Path) -> None:
    kinds = [kind for kind in T if kind not in (T.ARRAY, T.STRING)]
    keys: dict[str, tuple[T, object]] = {f"x.{kind.name}": (kind, 1) for kind in kinds}
    keys |= {f"x.{kind.name}.all": (kind, [0, 1]) for kind in kinds}
    keys |= {f"x.{kind.name}.none": (kind, []) for kind in (*kinds, T.STRING)}
    keys |= {"x. odd\t\"'ä\x1b": (T.STRING, ""), "x.texts": (T.STRING, ["", "日本"])}
    keys |= {"x.zero": (T.UINT64, 0), "x.large": (T.UINT64, (1 << 64) - 1)}
    source = small_llama.write(tmp_path / "m.gguf", keys)
    before = open_gguf(source).metadata
    after = open_gguf(requantize(source, tmp_path / "q.gguf", "Q8_0")).metadata
    assert set(keys) < set(after)
    for key in before:
        assert after.type_of(key) == before.type_of(key)
        assert after.same_value(key, before)


def test_refusals_leave_nothing_behind(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(FusecError, match="unknown quantisation 'q9'"):
        requantize(plain, tmp_path / "x.gguf", "q9")
    with pytest.raises(FusecError, match="it is the model that is read"):
        requantize(plain, plain, "Q8_0")
    with pytest.raises(FusecError, match="it is a folder"):
        requantize(plain, tmp_path, "Q8_0")
    values = Model.open(plain).floats("blk.0.ffn_up.weight").copy()
    values[3, 5] = np.nan
    poisoned = edited(plain, tmp_path / "nan.gguf", tensors={"blk.0.ffn_up.weight": values})
    with pytest.raises(FusecError, match=r"nan\.gguf: tensor 'blk\.0\.ffn_up\.weight': .* finite"):
        requantize(poisoned, tmp_path / "y.gguf", "Q8_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nan.gguf"]
