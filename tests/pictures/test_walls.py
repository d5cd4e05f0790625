"""What `fusec profile` prints, draws and writes."""

from __future__ import annotations

import json
import struct
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from fusec import walls
from fusec.bench import profile
from fusec.errors import FusecError
from tests.command import fusec, refused
from tests.pictures.conftest import profile_of


def test_the_line_doubts_walls_that_do_not_add_up(compiled):
    data = profile_of(compiled)
    assert "sum to 57.5 us (96%)" in walls.line(data)
    assert "apart" not in walls.line(data)
    far = walls.line(profile_of(compiled, sum=30.0))
    assert "(50%): more than 15% apart" in far


def test_us_a_token_are_those_of_all_launches_of_a_kernel(compiled):
    """The mean of a kernel's launches, times how many there are, is their sum."""
    data = profile_of(compiled)
    console = Console(width=200, record=True)
    console.print(list(walls.tables(data))[1])
    rows = [line.split() for line in console.export_text().splitlines()]
    for name in data["kernels"]:
        mine = [x["us"] for x in data["launches"] if x["kernel"] == name]
        start = [name.rsplit("_", 1)[0], str(len(mine)), f"{sum(mine) / len(mine):.2f}"]
        row = next(row for row in rows if row[:3] == start)
        assert row[-2] == f"{sum(mine):,.1f}"
    assert max(len([x for x in data["launches"] if x["kernel"] == n]) for n in data["kernels"]) > 1


def test_a_trace_has_every_launch_end_to_end(compiled):
    data = profile_of(compiled)
    events = walls.trace(data, compiled.plan)["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert tracks == {0: "measured", 1: "predicted"}
    for track in tracks:
        mine = [e for e in events if e["ph"] == "X" and e["tid"] == track]
        assert [e["args"]["node"] for e in mine] == [x.node for x in compiled.plan.launches]
        at = 0.0
        for event in mine:
            assert event["ts"] == pytest.approx(at)
            at += event["dur"]
    assert at == pytest.approx(2.0 * len(compiled.plan.launches))


def test_a_trace_without_predictions_has_one_track(compiled):
    data = profile_of(compiled)
    for item in data["launches"]:
        item["predicted_us"] = None
    events = walls.trace(data, compiled.plan)["traceEvents"]
    assert {e["tid"] for e in events} == {0}


def test_charts(compiled, tmp_path):
    pytest.importorskip("matplotlib")
    data = profile_of(compiled)
    walls.draw(data, tmp_path / "w.svg")
    walls.draw(data, tmp_path / "w.png")
    colours = [e.get("style", "") for e in ET.parse(tmp_path / "w.svg").iter()]
    for colour in walls.COLOURS.values():
        assert any(f"fill: {colour.lower()}" in style for style in colours)
    png = (tmp_path / "w.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) > (1000, 300)


def test_charts_need_a_name_that_says_what_they_are(tmp_path):
    with pytest.raises(FusecError, match=r"expected a file name in \.svg or \.png"):
        walls.check_chart(tmp_path / "w.pdf")


def test_the_command_writes_what_was_asked_for(tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(profile, "contradictions", lambda *_: iter(()))  # others use this machine
    files = {"--json": "p.json", "--trace": "t.json", "--chart": "w.svg"}
    options = [word for name, file in files.items() for word in (name, tmp_path / file)]
    ran = fusec("profile", tiny_model, "-n", 4, "--threads", 1, "--context", 64, *options)
    assert ran.code == 0, ran.err
    for wall in walls.COLOURS:
        assert wall in ran.out
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["threads"] == 1
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    html = tmp_path / "r.html"
    shown = fusec("inspect", tiny_model, "--context", 64, "--profile", tmp_path / "p.json",
                  "--html", html)  # fmt: skip
    assert shown.code == 0, shown.err
    assert "The four walls" in html.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-n", 1), "-n: expected at least 2 tokens, found 1"),
        (("--chart", "walls.gif"), "expected a file name in .svg or .png"),
        (("--trace", "/no/such/folder/t.json"), "cannot write here"),
        (("-n", 4000), "do not fit a context of 512"),
    ],
)
def test_the_command_refuses(tiny_model, options, message):
    assert message in refused("profile", tiny_model, *options)


def test_calibrating_needs_a_gpu():
    assert "NVIDIA" in refused("calibrate") or "cuda" in refused("calibrate")


def test_inspect_refuses(tiny_model, tmp_path):
    assert "--profile: its times are shown by" in refused("inspect", tiny_model, "--profile", "x")
    assert "no layer 99: it has layers 0 to 7" in refused(
        "inspect", tiny_model, "--svg", tmp_path / "x.svg", "--layer", 99
    )
    assert not list(tmp_path.iterdir())
