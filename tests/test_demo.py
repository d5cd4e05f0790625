"""The model that comes with the package: found by its name, and the text it writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from storybook import stories

import fusec as library
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.shipped import SHIPPED
from fusec.passes.pipeline import LEVELS
from fusec.verifier import reference_logits
from tests.command import fusec, refused

GOLDEN = json.loads((Path(__file__).parent / "golden" / "demo.json").read_text(encoding="utf-8"))
GREEDY = ("--temp", "0", "--json")

pytestmark = pytest.mark.xdist_group("demo")  # they share the demo model's kernels


# --- its text ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["prompt"][:20])
def test_greedy_text_is_the_golden_one(level: int, case: dict) -> None:
    options = ("-p", case["prompt"], "-n", 400, f"-O{level}", *GREEDY)  # it ends by itself
    found = fusec("run", "demo", *options).json
    assert found["text"] == case["text"]
    assert found["ids"] == case["ids"]


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["prompt"][:20])
def test_the_golden_text_is_the_references(case: dict) -> None:
    """The float64 reference chooses the same tokens, by more than what kernels may be off."""
    model = Model.open(Path("demo"))
    prompt = model.tokenizer.encode(case["prompt"])
    ids = [*prompt, *case["ids"]]
    wanted = reference_logits(model, ids, len(ids))[len(prompt) - 1 : -1]
    assert wanted.argmax(-1).tolist() == case["ids"]
    engine = library.load("demo", context=len(ids))
    found = engine.logits(ids)[len(prompt) - 1 : -1]
    engine.close()
    top = np.sort(wanted, axis=-1)
    assert (top[:, -1] - top[:, -2] > 2 * np.abs(found - wanted).max(-1)).all()
    assert model.tokenizer.decode(case["ids"]) == case["text"]


@pytest.mark.slow
def test_sampled_text_is_a_story_too() -> None:
    """At the default temperature: whole sentences of words that the training text has."""
    words = set(re.findall(r"[a-z]+", " ".join(stories(0, 4000)).lower()))
    options = ("-p", "Once upon a time", "-n", 200, "--seed", 1, "--json")
    text = fusec("run", "demo", *options).json["text"]
    used = re.findall(r"[a-z]+", text.lower())[:-1]  # the last may be cut
    assert len(used) > 80
    assert sum(word in words for word in used) / len(used) > 0.98
    assert text.count(".") > 5


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals")
def test_a_terminal_shows_the_prompt_too() -> None:
    """Somebody who reads gets the whole text, a program that reads only what is new."""
    reader, writer = os.openpty()
    command = [sys.executable, "-m", "fusec", "run", "demo", "-p", "Once upon", "-n", "2"]
    command += ["--temp", "0"]
    subprocess.run(command, stdout=writer, stderr=subprocess.DEVNULL, check=True, timeout=120)
    os.close(writer)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", os.read(reader, 1000).decode())
    assert shown.split("\r\n")[0] == "Once upon a time"
    os.close(reader)
    assert fusec("run", "demo", "-p", "Once upon", "-n", 2, "--temp", 0).out == " a time\n"


# --- its name ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_command_and_the_library_know_it(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a fox. " * 20)
    assert fusec("compile", "demo", "-o", tmp_path / "out").code == 0
    assert fusec("run", tmp_path / "out", "-p", "Once", "-n", 2, *GREEDY).json["ids"]
    assert fusec("inspect", "demo", "--json").json["name"] == "llama_decode"
    assert fusec("verify", "demo", "--tokens", 3, "--context", 8, "-O1").code == 0
    assert fusec("perplexity", "demo", text, "-c", 16, "--json").json["value"] > 1
    assert fusec("quantize", "demo", tmp_path / "q.gguf", "Q8_0", "--again").code == 0
    assert fusec("roofline", "demo", "--json").code == 0
    assert fusec("bench", "demo", "-n", 2, "--prompt", 1, "--repeats", 1, "-O2").code == 0
    engine = library.load("demo", context=8)
    assert len(list(engine.tokens([1], 3))) == 3
    engine.close()


def test_a_file_of_that_name_comes_first(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Model.open(Path("demo")).file.path == SHIPPED["demo"]
    Path("demo").write_bytes(tiny_model.read_bytes())
    assert Model.open(Path("demo")).config == Model.open(tiny_model).config


@pytest.mark.slow
def test_a_compiled_folder_of_that_name_can_be_run_and_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for level in (0, 1):
        assert fusec("compile", "demo", "-o", "demo", f"-O{level}", "--context", 64).code == 0
        assert fusec("inspect", "demo", "--json").json["level"] == level


def test_only_the_bare_name_is_one(tmp_path: Path) -> None:
    assert refused("inspect", tmp_path / "demo").endswith("demo: no such file")
    assert refused("inspect", "demo.gguf") == "demo.gguf: no such file"


def test_a_folder_compiled_from_it_elsewhere_finds_it_here(tmp_path: Path) -> None:
    assert fusec("compile", "demo", "-o", tmp_path / "out", "--context", 64).code == 0
    manifest = tmp_path / "out" / "fusec.json"
    data = json.loads(manifest.read_text())
    from fusec.artifact import _sealed

    data["model"] = "/another/machine/site-packages/fusec/data/demo.gguf"
    del data["sha256"]
    manifest.write_text(json.dumps(data | {"sha256": _sealed(data)}))
    assert fusec("run", tmp_path / "out", "-p", "Once", "-n", 1, *GREEDY).json["ids"]


# --- its file ------------------------------------------------------------------------------------


def test_it_is_small_and_shaped_like_smollm2() -> None:
    file = open_gguf(SHIPPED["demo"])
    config = Model.open(SHIPPED["demo"]).config
    assert file.file_bytes < 2_000_000
    assert config.tied
    assert config.heads > config.kv_heads
    assert file.get("tokenizer.ggml.pre", str) == "smollm"
    assert Model.open(SHIPPED["demo"]).tokenizer.encode("<|endoftext|>") == [0]


def test_its_name_is_not_a_path_of_this_machine() -> None:
    raw = SHIPPED["demo"].read_bytes()
    assert b"/tmp/" not in raw
    assert b"/work/" not in raw
