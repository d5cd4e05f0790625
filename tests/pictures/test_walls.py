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
from tests.tables import row_of, rows_of


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


def test_the_table_of_walls_adds_up(compiled):
    """Microseconds, share of the token and microseconds a launch, for both ways to run it."""
    data = profile_of(compiled)
    table, _ = walls.tables(data)
    count = len(compiled.plan.launches)
    naive, captured = (
        {wall: (float(row[column].replace(",", "")), row[share], row[each])
         for row in rows_of(table) if (wall := row["wall"]) in walls.COLOURS}
        for column, share, each in (
            ("launched one by one, sampled on the host", "share", "a launch"),
            ("captured graph, sampled on the device", "share 2", "a launch 2"),
        )
    )  # fmt: skip
    assert captured == {
        "between tokens": (2.5, "4%", ""),
        "launches": (20.0, "33%", f"{20 / count:.3f}"),
        "memory": (5.0, "8%", f"{5 / count:.3f}"),
        "compute": (30.0, "50%", f"{30 / count:.3f}"),
    }
    assert naive == {
        "between tokens": (40.0, "14%", ""),
        "launches": (200.0, "71%", f"{200 / count:.3f}"),
        "memory": (5.0, "2%", f"{5 / count:.3f}"),
        "compute": (30.0, "11%", f"{30 / count:.3f}"),
    }
    assert list(row_of(table, "their sum").values())[1:] == ["275.0", "98%", "", "57.5", "96%", ""]
    assert list(row_of(table, "token").values())[1:] == ["280.0", "", "", "60.0", "", ""]


def test_the_table_of_kernels_adds_up(compiled):
    """Launch i takes 1 + i / 100 us and reads 1,000 bytes; each kernel alone 1.5, empty 0.5."""
    data = profile_of(compiled)
    _, table = walls.tables(data)
    rows, total = rows_of(table), 0.0
    for name, shown in zip(data["kernels"], rows, strict=True):
        own = [i for i, x in enumerate(compiled.plan.launches) if x.kernel == name]
        mean = 1 + sum(own) / len(own) / 100
        total += mean * len(own)
        assert shown == {
            "kernel": name.rsplit("_", 1)[0],
            "launches": str(len(own)),
            "in the token": f"{mean:.2f}",
            "predicted": "2.00",
            "launch": "0.50",
            "compute": "1.00",
            "memory, cold code": f"{mean - 1.5:+.2f}",
            "us a token": f"{mean * len(own):.1f}",
            "GB/s": f"{1000 / (mean * 1e-6) / 1e9:.0f}",
        }
    assert total == pytest.approx(sum(x["us"] for x in data["launches"]))


@pytest.mark.parametrize("ways", [2, 1])
def test_the_chart_s_bars_are_as_long_as_the_walls(compiled, tmp_path, monkeypatch, ways):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []

    def keep(self, path, **_):
        drawn.append(self)
        path.touch()

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    data = profile_of(compiled)
    if ways == 1:
        data["naive_walls"] = None
    walls.draw(data, tmp_path / "w.svg")
    (axes,) = drawn[0].axes
    shown = [data["naive_walls"], data["walls"]][-ways:]
    tokens = [data["naive"]["eager, host sampling"], data["token"]][-ways:]
    found = iter(axes.patches)
    for height, found_walls in enumerate(shown):
        at = 0.0
        for wall, us in found_walls.items():
            bar = next(found)
            assert (bar.get_x(), bar.get_width()) == pytest.approx((at, us)), wall
            assert bar.get_y() + bar.get_height() / 2 == pytest.approx(height)
            at += us
    assert next(found, None) is None
    assert [line.get_xdata()[0] for line in axes.lines] == tokens
    longest = max(tokens)
    labels = [text.get_text() for text in axes.texts]
    written = [us for each in shown for us in each.values() if us > 0.055 * longest]
    assert labels == [f"{us:,.0f}" for us in written]
    assert axes.get_xlabel() == "us a token"


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
    files = {"-o": "p.json", "--trace": "t.json", "--chart": "w.svg"}
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
        "inspect", tiny_model, "--svg", tmp_path / "x.svg", "--layers", 99
    )
    assert "--layers: expected all, 4, 0-3 or 0,4, found 'some'" in refused(
        "inspect", tiny_model, "--svg", tmp_path / "x.svg", "--layers", "some"
    )
    assert not list(tmp_path.iterdir())
