"""`fusec synth ARCH`, and what the other commands make of such a model, whole and in parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.small import config_of
from tests.command import fusec, refused
from tests.gguf_split import split

pytestmark = pytest.mark.xdist_group("artifact")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gemma3", "phi3"])
def test_a_model_in_parts_is_compiled_and_run_as_the_whole_is(
    architecture: str, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.gguf"
    assert fusec("synth", architecture, "-o", whole, "--quant", "Q8_0").code == 0
    assert Model.open(whole).config.architecture == architecture
    asked = ("--prompt-ids", "3,1,4,1,5", "-n", "12", "--temp", "0")
    texts = []
    for model in (whole, split(whole, tmp_path, 3)[0]):
        folder = tmp_path / f"{model.stem}-compiled"
        compiled = fusec("compile", model, "-o", folder, "--context", "20")
        assert compiled.code == 0, compiled.err
        for path in (model, folder):
            ran = fusec("run", path, *asked)
            assert ran.code == 0, ran.err
            texts.append(ran.out)
    assert texts[0] and len({*texts}) == 1


def test_seed_and_mix_are_of_small_models_too(tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((0, 7, 7)):
        path = tmp_path / f"{number}.gguf"
        assert fusec("synth", "qwen3", "-o", path, "--seed", seed, "--quant", "Q4_0").code == 0
        files.append(path.read_bytes())
    assert files[0] != files[1] == files[2]
    assert open_gguf(path).tensor("blk.0.attn_q.weight").dtype == "q4_0"
    assert config_of("qwen3").layers == Model.open(path).config.layers


def test_unknown_names_are_told_what_there_is(tmp_path: Path) -> None:
    message = refused("synth", "qwen4", "-o", tmp_path / "model.gguf")
    assert message.startswith("unknown preset 'qwen4', known: smollm2-135m, ")
    assert ", tiny, and small models of llama, " in message
