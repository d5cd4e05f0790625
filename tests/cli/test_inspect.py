"""`fusec inspect`, and how levels are given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fusec as library
from fusec.ir import parse
from fusec.passes.pipeline import LEVELS
from tests.cli.counts import FORWARD, LAYERS, OTHER, PER_LAYER
from tests.command import fusec

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.parametrize("level", LEVELS)
def test_inspect_json(tiny_model: Path, level: int) -> None:
    data = fusec("inspect", tiny_model, "-O", level, "--json").json
    assert data["level"] == level
    assert data["dispatches"] == {
        "forward": FORWARD[level],
        "per_layer": PER_LAYER[level],
        "other": OTHER[level],
    }
    names = [stage["pass"] for stage in data["stages"]]
    assert names[0] == "decode-graph"
    assert names[-1] == "schedule"
    for before, after in zip(data["stages"], data["stages"][1:], strict=False):
        assert before["after"] == after["before"]
    assert data["stages"][-1]["after"] == FORWARD[level] + len(OTHER[level])
    assert {"hits", "ms", "refused", "rule"} <= set(data["stages"][0])
    model = library.driver.Model.open(tiny_model)
    assert data["weights_bytes"] == sum(t.data.nbytes for t in model.file.tensors.values())
    assert data["states_bytes"] == 2 * LAYERS * 512 * 32 * 2  # k and v, 2 heads of 16, f16
    assert 0 < data["arena_bytes"] < 1 << 16
    assert sum(data["kernels"].values()) == FORWARD[level] + len(OTHER[level])


@pytest.mark.slow
def test_inspect_of_the_135m_shape(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    assert fusec("synth", "smollm2-135m", "-o", path).code == 0
    levels = [("cpu", 0, 542), ("cpu", 1, 301), ("cpu", 2, 181), ("cpu", 3, 151)]
    for target, level, forward in [*levels, ("sm_80", 3, 151), ("sm_90a", 3, 91)]:
        data = fusec("inspect", path, f"-O{level}", "--target", target, "--json").json
        assert data["dispatches"]["forward"] == forward


def test_inspect_prints_the_graph_at_a_stage(tiny_model: Path, compiled: Path) -> None:
    ran = fusec("inspect", tiny_model, "--stage", "fuse-pairs")
    text = ran.out
    assert text.startswith("# after fuse-pairs: ")
    graph = parse("".join(line for line in text.splitlines(True) if line[0] != "#"))
    assert {"rope", "norm_matvec"} <= {node.kind for node in graph.nodes}
    folder = fusec("inspect", compiled, "--stage", "fuse-pairs").out
    assert fusec("inspect", compiled, "--stage", "pairs").out == folder
    assert fusec("inspect", tiny_model, "--stage", "pairs").out.startswith("# after fuse-pairs: ")
    assert re.sub(r"\d+\.\d ms|\[(64|512), 2|f16|f32", "", folder) == re.sub(
        r"\d+\.\d ms|\[(64|512), 2|f16|f32", "", text
    )


def test_a_stage_as_json_is_its_line_of_the_report_and_its_graph(
    tiny_model: Path, compiled: Path
) -> None:
    for model in (tiny_model, compiled):
        data = fusec("inspect", model, "--stage", "fuse-pairs", "--json").json
        stages = fusec("inspect", model, "--json").json["stages"]
        (wanted,) = (stage for stage in stages if stage["pass"] == "fuse-pairs")
        graph = parse(data.pop("graph"))
        assert len(graph.nodes) == data["after"] < data["before"]
        assert data | {"ms": 0} == wanted | {"ms": 0}


def test_inspect_of_a_folder_is_the_report_of_compile(tiny_model: Path, compiled: Path) -> None:
    folder = fusec("inspect", compiled, "--json").json
    model = fusec("inspect", tiny_model, "--context", 64, "--kv", "f32", "--json").json
    for data in (folder, model):
        for stage in data["stages"]:
            del stage["ms"]
    assert folder == model
    assert "dispatches a token" in fusec("inspect", compiled).out


@pytest.mark.parametrize("form", [["-O1"], ["-O", "1"], ["--level", "1"], ["--level=1"]])
def test_forms_of_the_level(tiny_model: Path, form: list[str]) -> None:
    assert fusec("inspect", tiny_model, *form, "--json").json["level"] == 1


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ([], 2),
        (["--target", "cpu"], 2),
        (["--target", "sm_90a"], 3),
        (["--target", "sm_80"], 3),
        (["--target", "sm_90a", "-O", "1"], 1),
        (["--target", "sm_90a", "-O", "0"], 0),
        (["-O", "3"], 3),
    ],
)
def test_the_default_level_is_the_targets(tiny_model: Path, options: list[str], level: int) -> None:
    data = fusec("inspect", tiny_model, *options, "--json").json
    assert data["level"] == level
    clusters = level == 3 and "sm_90a" in options  # which make the feed-forward half in one
    assert data["dispatches"]["per_layer"] == PER_LAYER[level] - clusters


@pytest.mark.parametrize("command", ["compile", "inspect", "run", "profile", "perplexity"])
def test_help_says_the_default_level(command: str) -> None:
    text = re.sub(r"[\s│]+", " ", fusec(command, "--help").out)
    assert "4 clustered. (default: 3 on a GPU, 2 on the CPU)" in text


def test_files_that_were_written_are_named(tiny_model: Path, tmp_path: Path) -> None:
    options = [x for name in ("dot", "svg", "html") for x in (f"--{name}", tmp_path / name)]
    lines = [f"written to {tmp_path / name}" for name in ("dot", "svg", "html")]
    assert fusec("inspect", tiny_model, *options).err.splitlines() == lines
    assert fusec("inspect", tiny_model, *options, "--quiet").err == ""
    assert fusec("compile", tiny_model, *options[:2]).err.splitlines() == lines[:1]
