"""The loop of drafted tokens as SVG, as DOT, and in the report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fusec import driver, pictures
from fusec.errors import FusecError
from fusec.pictures.loop import Loop
from tests.command import fusec, refused
from tests.pictures.markup import by_id, of_class, read, style, table, text
from tests.pictures.test_svg import boxes

PARTS = ["draft", "check", "choice", "accept"]


def rounds_of(compiled: driver.Compiled, **changed: object) -> dict:
    """What `fusec profile --draft auto --json` would write."""
    times = {"draft": 8.0, "check": 180.0, "choice": 4.0, "accept": 6.0}
    rounds = [
        {"rows": 1, "count": 30} | dict.fromkeys(times, 0.0) | {"check": 100.0},
        {"rows": 4, "count": 10} | times,
        {"rows": 16, "count": 10} | times | {"draft": 10.0, "check": 380.0},
    ]
    texts = [{"name": "chat", "tokens": 80, "steps": 50, "drafted": 40, "accepted": 30, "us": 90.0}]
    return {
        "gpu": "NVIDIA H200", "model": "tiny", "target": compiled.plan.target,
        "level": compiled.plan.level, "threads": None, "command": "fusec profile tiny.gguf",
        "date": "2026-01-02", "commit": "abc",
        "draft": {
            "drafter": "auto", "most": 15, "left_out": [], "rounds": rounds, "texts": texts,
        },
        **changed,
    }  # fmt: skip


@pytest.fixture
def profile(compiled: driver.Compiled, tmp_path: Path) -> Path:
    path = tmp_path / "rounds.json"
    path.write_text(json.dumps(rounds_of(compiled)))
    return path


def loop(
    compiled: driver.Compiled, drafter: str = "auto", most: int = 15, profile: Path | None = None
) -> Loop:
    return pictures.loop_of(compiled.model, compiled.plans, drafter, most, profile)[0]


@pytest.fixture(scope="module")
def on_cpu(tiny_model: Path) -> driver.Compiled:
    return driver.compile(tiny_model)


def test_on_a_gpu_a_round_goes_from_the_host_to_the_ring(compiled):
    drawing = loop(compiled).drawing()
    assert list(drawing.boxes) == ["host", *PARTS, "out"]
    assert list(drawing.edges) == [
        ("host", "draft"), ("draft", "check"), ("check", "choice"), ("choice", "accept"),
        ("accept", "out"),
    ]  # fmt: skip
    assert list(drawing.back) == [("accept", "draft"), ("accept", "host")]
    (logits,) = drawing.edges["check", "choice"]
    vocabulary = compiled.plan.outputs["%logits"].shape[-1]
    assert (logits.dtype, logits.shape) == ("f32", (16, vocabulary))


def test_boxes_say_what_is_read_and_written(compiled):
    drawn = boxes(loop(compiled).svg())
    assert drawn["draft: auto"] == [
        "kernel draft: 1 block of 1024 threads",
        "< ids, position, table of pairs",
        "> token, pos i32[rows], ids",
    ]
    assert "> ids, position, table of pairs, ring, log" in drawn["accept"]
    check = drawn["check: a step of up to 16 rows"]
    few, wide = compiled.plans.between
    assert check[0] == f"up to {few.tokens} rows: {len(few.launches)} dispatches"
    assert check[1].startswith(f"more: {len(wide.launches)} dispatches, ")
    assert (
        f"or a plain token: {len(compiled.plan.launches)} dispatches"
        in (drawn["the host: how many rows"])
    )


def test_narrow_steps_have_one_plan(compiled):
    check = boxes(loop(compiled, most=3).svg())["check: a step of up to 4 rows"]
    assert check[0].startswith(f"{len(compiled.plans.between[0].launches)} dispatches, ")
    assert loop(compiled, most=100).rows == 16


def test_on_the_cpu_and_with_a_model_the_host_guesses(on_cpu, compiled):
    drawing = loop(on_cpu, "suffix").drawing()
    assert list(drawing.boxes) == [*PARTS, "out"]
    assert list(drawing.back) == [("accept", "draft")]
    lines = [line for box in drawing.boxes.values() for line in box.lines]
    assert "< ids, position" in lines
    assert not any("pairs" in line or "kernel" in line for line in lines)
    hosted = loop(compiled, "small").drawing()
    assert "host" not in hosted.boxes
    assert hosted.boxes["draft"].title == "draft: small, on the host"
    assert "kernel accept: 1 block of 32 threads" in hosted.boxes["accept"].lines


def test_edges_back_are_beside_everything(compiled):
    svg = loop(compiled).svg()
    right = max(
        float(x) + float(w)
        for x, w in re.findall(r'x="([\d.]+)"[^>]*width="([\d.]+)"[^>]*rx="5"', svg)
    )
    lanes = [float(x) for x in re.findall(r'd="M[\d. ]+H[\d.]+Q([\d.]+) ', svg)]
    assert len(lanes) == 2 and right < lanes[0] < lanes[1]
    width = float(re.search(r'viewBox="0 0 (\d+)', svg)[1])
    assert lanes[1] < width


def test_times_stand_in_the_boxes(compiled, profile):
    drawn = boxes(loop(compiled, profile=profile).svg())
    assert drawn["draft: auto"][-1] == "9.0 us measured"  # of 10 rounds each
    assert drawn["accept"][-1] == "6.0 us measured"
    check = drawn["check: a step of up to 16 rows"]
    assert check[-2:] == ["1 row 100.0 us, 4 rows 180.0 us,", "16 rows 380.0 us"]


def test_dot_has_the_same_boxes_and_edges(compiled, profile):
    found = loop(compiled, profile=profile)
    dot, drawing = found.dot(), found.drawing()
    for name, box in drawing.boxes.items():
        assert f'"{name}" [label="{box.title}' in dot
    for source, target in drawing.edges:
        assert f'"{source}" -> "{target}" [' in dot
    back = [line for line in dot.splitlines() if "constraint=false" in line]
    assert [re.findall(r'"(\w+)" -> "(\w+)"', line)[0] for line in back] == list(drawing.back)
    assert all(line.rstrip().endswith("];") for line in back)


def test_the_report_has_the_loop_where_one_is_asked_for(compiled, profile):
    subject = pictures.of_compiled(compiled)
    assert 'id="loop"' not in pictures.html(subject)
    plain = read(pictures.html(replace(subject, loop=loop(compiled))))
    assert "fusec profile MODEL --draft auto" in text(by_id(plain, "loop"))
    page = read(pictures.html(replace(subject, loop=loop(compiled, profile=profile))))
    section = by_id(page, "loop")
    rounds, texts = (table(each) for each in section.iter("table"))
    assert [row[0] for row in rounds] == ["rows", "1", "4", "16"]
    assert rounds[2][2:7] == ["8.00", "180.00", "4.00", "6.00", "198.00"]
    assert texts[1][:5] == ["chat", "80", "50", "30 of 40", "90.00"]
    bars = of_class(section, "bar")
    assert [style(bar, "width") for bar in bars] == pytest.approx([25, 49.5, 100], abs=0.01)
    assert "fusec profile tiny.gguf" in text(by_id(page, "sources"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"level": 1}, "expected a profile at -O3 for sm_90a, found one at -O1 for sm_90a"),
        ({"draft": {"rounds": [{}]}}, "expected what fusec profile -o writes"),
        ({"draft": {"rounds": 3}}, "expected what fusec profile -o writes"),
        ({"target": None}, "expected a profile at -O3"),
    ],
)
def test_a_profile_of_something_else_is_refused(compiled, tmp_path, changed, said):
    path = tmp_path / "rounds.json"
    path.write_text(json.dumps(rounds_of(compiled, **changed)))
    with pytest.raises(FusecError, match=said):
        loop(compiled, profile=path)


def test_profiles_of_the_plan_and_of_the_loop_are_told_apart(compiled, profile, tmp_path):
    with pytest.raises(FusecError, match="a profile of drafted tokens: show it with --draft"):
        pictures.of_compiled(compiled, profile)
    with pytest.raises(FusecError, match="expected a profile of --draft suffix, found one of auto"):
        loop(compiled, "suffix", profile=profile)
    other = tmp_path / "plan.json"
    other.write_text(json.dumps({"launches": []}))
    found, left = pictures.loop_of(compiled.model, compiled.plans, "auto", 15, other)
    assert found.profile is None and left == other


def test_the_command(tiny_model: Path, tmp_path: Path):
    dot, svg, html = (tmp_path / name for name in ("a.dot", "a.svg", "a.html"))
    options = ("--draft", "auto", "--draft-max", 7, "--dot", dot, "--svg", svg, "--html", html)
    assert fusec("inspect", tiny_model, *options).code == 0
    assert "check: a step of up to 8 rows" in svg.read_text()
    assert "check: a step of up to 8 rows" in dot.read_text()
    assert 'id="loop"' in html.read_text()
    folder = tmp_path / "compiled"
    assert fusec("compile", tiny_model, "-o", folder).code == 0
    again = tmp_path / "b.svg"
    assert fusec("inspect", folder, "--draft", tiny_model, "--svg", again).code == 0
    assert f"draft: {tiny_model.stem}" in again.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--draft", "auto"), "--draft: nothing is drawn: add --dot, --svg or --html FILE"),
        (
            ("--draft", "off", "--svg", "a.svg"),
            "draft: expected auto, suffix, recycle, mtp or a model",
        ),
        (
            ("--draft", "nobody", "--svg", "a.svg"),
            "draft: expected off, auto, suffix, recycle, mtp or",
        ),
        (
            ("--draft", "auto", "--svg", "a.svg", "--width", 4),
            "--draft: the loop has no --stage and no --width",
        ),
        (
            ("--draft", "auto", "--svg", "a.svg", "--draft-max", 0),
            "draft_max: expected a number of tokens from 1",
        ),
    ],
)
def test_what_cannot_be_drawn(tiny_model: Path, options: tuple, said: str):
    assert refused("inspect", tiny_model, *options).startswith(said)
