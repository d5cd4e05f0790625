"""`fusec list`: every topic has a line for each thing there is, with a sentence about it."""

from __future__ import annotations

import pytest

from fusec.cli.list import TOPICS, sentence
from fusec.codegen.formats import FORMATS
from fusec.ir.gpus import all_gpus
from fusec.ir.ops import OPS
from fusec.models.names import known_models
from fusec.models.presets import PRESETS
from fusec.passes.pipeline import LEVELS, passes_of
from tests.command import fusec, refused

PASSES = [step.name for step in passes_of(max(LEVELS))]
NAMES = {
    "models": [model.name for model in known_models()],
    "rules": [name.removeprefix("fuse-") for name in PASSES if name.startswith("fuse-")],
    "passes": PASSES,
    "ops": list(OPS),
    "gpus": list(all_gpus()),
    "presets": list(PRESETS),
    "formats": list(FORMATS),
}


@pytest.mark.parametrize("topic", NAMES)
def test_a_line_for_each(topic: str) -> None:
    listed = fusec("list", topic, "--json").json
    assert [entry["name"] for entry in listed] == NAMES[topic]
    printed = fusec("list", topic).out.splitlines()
    for entry, line in zip(listed, printed, strict=True):
        assert line.startswith(entry["name"] + " ")
        assert line.endswith(entry["about"])
        assert len(entry["about"].split()) > 2, f"{entry['name']} is not described"


def test_rules_and_passes_are_told_apart() -> None:
    for topic in ("rules", "passes"):
        sentences = [entry["about"] for entry in fusec("list", topic, "--json").json]
        assert len(set(sentences)) == len(sentences)
    told = {e["name"]: e["about"] for e in fusec("list", "rules", "--json").json}
    assert told["pairs"].startswith("The rotations of query and key")


def test_what_is_listed_of_a_thing() -> None:
    found = {e["name"]: e for topic in NAMES for e in fusec("list", topic, "--json").json}
    assert found["epilogue"]["rule"] == "rows -> element => rows"
    assert (found["fuse-epilogue"]["from"], found["schedule"]["from"]) == ("-O2", "-O0")
    assert found["silu"] == {
        "name": "silu", "role": "element", "about": "x * sigmoid(x), Elfwing et al. 2017",
    }  # fmt: skip
    assert found["H200"]["target"] == "sm_90a"
    assert found["smollm2-135m"]["weights"] == "135 M"
    assert found["demo"]["file"].endswith(".gguf")
    assert (found["q4_0"]["bits"], found["q4_0"]["per block"]) == (4.5, 32)


def test_numbers_are_printed_with_what_they_count() -> None:
    assert "132 SMs  1.98 GHz  " in fusec("list", "gpus").out


def test_without_a_topic_the_topics() -> None:
    listed = fusec("list", "--json").json
    assert [entry["name"] for entry in listed] == list(TOPICS)
    assert all(entry["about"] for entry in listed)


def test_another_topic() -> None:
    assert refused("list", "colours") == (
        f"list: no topic 'colours': known are {', '.join(sorted(TOPICS))}"
    )


@pytest.mark.parametrize(
    ("doc", "first"),
    [
        (None, ""),
        ("One\nline. And more.\n\nBelow.", "One line"),
        ("After So et al. 2021. Then", "After So et al. 2021"),
        ("x / 0.5.", "x / 0.5"),
    ],
)
def test_first_sentences(doc: str | None, first: str) -> None:
    assert sentence(doc) == first
