"""Experts in model files: every form that they have there, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.models.experts import Experts
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.requantize import requantize
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from tests.gguf_edit import edited

IDS = [1, 5, 9]
LAYERS = 2


def written(path: Path, architecture: str = "qwen3moe", quant: str = "F32", **experts) -> Path:
    skipped = int(architecture == "glm4moe")
    config = replace(config_of(architecture), layers=LAYERS, biased=frozenset(), skipped=skipped)
    return synthesize(replace(config, experts=replace(config.experts, **experts)), path, quant)


def floats(path: Path) -> dict[str, np.ndarray]:
    return {n: t.data.view("f4").reshape(t.shape) for n, t in open_gguf(path).tensors.items()}


def changed(plain: Path, path: Path, changes: dict, **keys: object) -> Path:
    architecture = open_gguf(plain).architecture
    names = {f"{architecture}.{name}": value for name, value in keys.items()}
    return edited(plain, path, {"general.architecture": architecture} | names, changes)


def logits_of(path: Path) -> np.ndarray:
    with driver.load(path, "cpu", context=16) as engine:
        return engine.logits(IDS)


def logits(path: Path) -> bytes:
    return logits_of(path).tobytes()


def test_a_file_has_stacks_of_matrices(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf")
    model = Model.open(path)
    experts = model.config.experts
    assert experts == Experts(40, 6, 64)
    shape = (experts.count, experts.width, model.config.width)
    assert model.file.tensors["blk.1.ffn_gate_exps.weight"].shape == shape
    stack = model.tensors["blk.1.ffn_gate_exps.weight"]
    assert stack.shape == (40 * 64, 96)
    assert np.shares_memory(stack.data, model.file.tensors[stack.name].data)


@pytest.mark.slow
def test_gate_and_up_may_be_merged(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.gguf")
    there, changes = floats(plain), {}
    for layer in range(LAYERS):
        gate, up = (f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up"))
        merged = np.concatenate([there[gate], there[up]], axis=1)
        changes |= {gate: None, up: None, f"blk.{layer}.ffn_gate_up_exps.weight": merged}
    assert logits(changed(plain, tmp_path / "merged.gguf", changes)) == logits(plain)


def apart(plain: Path) -> dict[str, np.ndarray | None]:
    """A tensor for each expert, as the first files of Mixtral have them."""
    changes: dict[str, np.ndarray | None] = {}
    for name, values in floats(plain).items():
        if "_exps." in name:
            stem = name.removesuffix("_exps.weight")
            changes[name] = None
            changes |= {f"{stem}.{k}.weight": values[k] for k in range(len(values))}
    return changes


@pytest.mark.slow
def test_each_expert_may_have_tensors_of_its_own(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.gguf", count=4, used=2)
    changes = apart(plain)
    assert logits(changed(plain, tmp_path / "apart.gguf", changes)) == logits(plain)
    changes |= {"blk.1.ffn_up.2.weight": None}
    with pytest.raises(FusecError, match=r"'blk.1.ffn_up.0.weight': .* 4 experts, found 3 tensors"):
        Model.open(changed(plain, tmp_path / "fewer.gguf", changes))


def test_tensors_of_an_expert_that_is_not_there_are_refused(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.gguf", count=4, used=2)
    wrong = {"blk.1.ffn_down_exps.weight": np.zeros((5, 96, 64), np.float32)}
    message = r"'blk.1.ffn_down_exps.weight' should have 4 experts, found 5 in shape \(5, 96, 64\)"
    with pytest.raises(FusecError, match=message):
        Model.open(changed(plain, tmp_path / "five.gguf", wrong))
    as_long = {"blk.1.ffn_down_exps.weight": np.zeros((8, 48, 64), np.float32)}
    with pytest.raises(FusecError, match="should have 4 experts, found 8"):
        Model.open(changed(plain, tmp_path / "as_long.gguf", as_long))
    flat = {"blk.1.ffn_down_exps.weight": np.zeros((384, 64), np.float16)}
    assert Model.open(changed(plain, tmp_path / "flat.gguf", flat))  # the same bytes in order
    other = {"blk.1.ffn_gate_shexp.weight": np.zeros((32, 96), np.float32)}
    with pytest.raises(FusecError, match=r"'blk.1.ffn_gate_shexp.weight' is not part of a qwen3m"):
        Model.open(changed(plain, tmp_path / "shared.gguf", other))


@pytest.mark.parametrize(
    ("architecture", "key", "value", "reason"),
    [
        ("qwen3moe", "expert_used_count", 41, "is 41, .*: expected at most 32 experts"),
        ("qwen3moe", "expert_count", 0, "is missing or 0, .* tensor 'blk.0.ffn_gate_inp.weight'"),
        ("qwen3moe", "expert_gating_func", 2, "is 2, .*: expected 0 or 1"),
        ("qwen3moe", "expert_weights_scale", 2.5, "is 2.5, .*: expected 1.0 or 0.0"),
        ("qwen3moe", "leading_dense_block_count", 2, "is 2, expected some of 2 layers to have"),
        ("glm4moe", "expert_gating_func", 5, "is 5, .*: expected 1 to 4"),
        ("glm4moe", "expert_group_count", 5, "is 5, .*: expected to divide 16 experts"),
        ("glm4moe", "expert_group_count", 16, "is 16, .*, into groups of at least two"),
        ("glm4moe", "expert_group_used_count", 5, "is 5, .*: expected at most 4 groups"),
        ("glm4moe", "expert_used_count", 9, "is 9, .*: expected at most 8 experts"),
        ("glm4moe", "nextn_predict_layers", 3, "is 3, expected less than the 3 blocks"),
        ("ernie4_5-moe", "interleave_moe_layer_step", 2, "is 2, .*: expected 1"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_key(
    architecture: str, key: str, value: float, reason: str, tmp_path: Path
) -> None:
    plain = written(tmp_path / "plain.gguf", architecture)
    with pytest.raises(FusecError, match=rf"{architecture}\.{key}'? {reason}"):
        Model.open(changed(plain, tmp_path / "wrong.gguf", {}, **{key: value}))


def test_experts_of_an_architecture_that_has_none_are_refused(tmp_path: Path) -> None:
    plain = synthesize(config_of("qwen2"), tmp_path / "plain.gguf", "F32")
    with pytest.raises(FusecError, match=r"qwen2.expert_count: experts are not supported in qwen"):
        Model.open(changed(plain, tmp_path / "wrong.gguf", {}, expert_count=8))


@pytest.mark.slow
def test_blocks_that_only_draft_tokens_are_skipped(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.gguf", "glm4moe")
    more = {f"blk.{LAYERS}.nextn.enorm.weight": np.ones(96, np.float32)}
    assert logits(changed(plain, tmp_path / "drafts.gguf", more)) == logits(plain)
    beyond = {f"blk.{LAYERS + 1}.nextn.enorm.weight": np.ones(96, np.float32)}
    with pytest.raises(FusecError, match=r"'blk.3.nextn.enorm.weight' is not part of a glm4moe"):
        Model.open(changed(plain, tmp_path / "beyond.gguf", beyond))


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q8_0", "MXFP4_MOE", "NVFP4"])
def test_quantised_experts(quant: str, tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.gguf", width=64)
    path = requantize(plain, tmp_path / "small.gguf", quant)
    tensors = open_gguf(path).tensors
    kind = quant.removesuffix("_MOE").lower()
    assert tensors["blk.0.ffn_down_exps.weight"].dtype == kind
    assert tensors["blk.0.ffn_down_exps.weight"].shape == (40, 96, 64)
    assert tensors["blk.0.ffn_gate_inp.weight"].dtype == "f32"
    same = synthesize(Model.open(plain).config, tmp_path / "same.gguf", quant)
    assert {n: t.dtype for n, t in open_gguf(same).tensors.items()} == {
        n: t.dtype for n, t in tensors.items()
    }
    wanted, found = logits_of(plain), logits_of(path)
    assert np.linalg.norm(found - wanted) < 0.3 * np.linalg.norm(wanted)


@pytest.mark.slow
def test_each_expert_has_a_factor_of_its_own(tmp_path: Path) -> None:
    """As NVFP4 files have them; quantising anew takes them into account."""
    plain = written(tmp_path / "plain.gguf", count=8, used=3)
    random = np.random.default_rng(5)
    factors, products = {}, {}
    for name, values in floats(plain).items():
        if "_exps." in name:
            own = random.uniform(0.25, 4, len(values)).astype(np.float32)
            factors[name.replace("weight", "scale")] = own
            products[name] = values * own[:, None, None]
    path = changed(plain, tmp_path / "factors.gguf", factors)
    wanted = logits_of(changed(plain, tmp_path / "products.gguf", products))
    found = logits_of(path)
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert np.linalg.norm(logits_of(plain) - wanted) > 0.1 * np.linalg.norm(wanted)
    small = logits_of(requantize(path, tmp_path / "small.gguf", "Q8_0"))
    assert np.linalg.norm(small - wanted) < 0.02 * np.linalg.norm(wanted)
    two = {"blk.0.ffn_up_exps.scale": np.ones(2, np.float32)}
    with pytest.raises(FusecError, match=r"'blk.0.ffn_up_exps.scale' should have shape \(8,\)"):
        Model.open(changed(path, tmp_path / "two.gguf", two))
