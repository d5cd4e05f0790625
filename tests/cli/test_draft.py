"""--draft of fusec run and fusec bench."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fusec.bench import drafts
from tests.command import fusec, plain, refused

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["auto", "suffix", "recycle", "demo"])
def test_the_text_is_the_same_with_and_without(draft: str) -> None:
    options = ("run", "demo", "-p", "Once upon a time", "-n", 60, "--seed", 2, "--json")
    wanted = fusec(*options).json
    found = fusec(*options, "--draft", draft, "--draft-max", 3).json
    assert (found["ids"], found["text"]) == (wanted["ids"], wanted["text"])
    timings = found["timings"]
    assert timings["draft_tokens"] == len(found["ids"])
    assert timings["draft_steps"] + timings["draft_accepted"] == timings["draft_tokens"]
    assert timings["draft_accepted"] <= timings["draft_drafted"]


def test_what_was_accepted_is_said_beside_the_speed(tiny_model: Path) -> None:
    ran = fusec("run", tiny_model, "-p", "hello", "-n", 9, "--ignore-eos", "--draft", "auto")
    assert re.search(r"; \d+ of \d+ drafted tokens accepted, \d+ steps\n$", ran.err)


def test_a_compiled_folder_drafts_too(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    assert fusec("compile", tiny_model, "-o", folder).code == 0
    options = ("-p", "hello", "-n", 30, "--temp", 0, "--ignore-eos", "--json")
    wanted = fusec("run", folder, *options).json
    found = fusec("run", folder, *options, "--draft", tiny_model).json
    assert found["ids"] == wanted["ids"]
    assert "draft_steps" in found["timings"]


def test_drafters_that_are_refused(tiny_model: Path) -> None:
    run = ("run", tiny_model, "-p", "a")
    assert "draft: expected off, auto, suffix, recycle, mtp or a model: sufix" in refused(
        *run, "--draft", "sufix"
    )
    assert "has to have the vocabulary of" in refused(*run, "--draft", "demo")
    assert "draft_max: expected a number of tokens from 1, found 0" in refused(
        *run, "--draft-max", 0
    )
    assert "expected -n from 2" in refused("bench", tiny_model, "--draft", "auto", "-n", 1)


@pytest.mark.slow
def test_bench_measures_drafters_beside_plain_decoding(tmp_path: Path) -> None:
    file = tmp_path / "drafts.json"
    ran = fusec("bench", "demo", "--draft", "suffix,recycle", "-n", 8, "--repeats", 1,
                "-o", file)  # fmt: skip
    assert ran.code == 0, ran.err
    data = json.loads(file.read_text())
    shown = plain(ran.out)
    assert {row["draft"] for row in data["results"]} == {"suffix", "recycle"}
    assert "chat" in {row["name"] for row in data["results"]}
    for row in data["results"]:
        assert row["ratio"] == pytest.approx(row["tok_s"] / row["plain_tok_s"])  # of one pair
        assert row["tokens_a_step"] == pytest.approx(8 / row["steps"])
        assert f" {row['draft']} {row['name']} tg8 @ d{row['prompt']} " in shown
    assert "suffix: " in shown and "of plain decoding on average" in shown


def test_the_prompts_are_those_of_the_issue() -> None:
    assert list(drafts.prompts()) == ["chat", "code", "json", "story", "summary", "translation"]
    assert all(len(text) > 200 for text in drafts.prompts().values())
