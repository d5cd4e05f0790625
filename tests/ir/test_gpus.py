"""The table of GPUs: names, measurements before sheets, damaged files."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from fusec.codegen.cuda.arch import ARCHS
from fusec.errors import FusecError
from fusec.ir import gpus


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEC_CONFIG_DIR", str(tmp_path))
    return tmp_path / "gpus"


def measurement(name: str, **changed) -> dict:
    data = {k: v for k, v in asdict(gpus.find("H200")).items() if k not in ("source", "measured")}
    return data | {"name": name, "command": "fusec calibrate", "date": "2026-01-02"} | changed


def test_every_gpu_has_an_architecture_that_kernels_are_built_for():
    assert {gpu.arch for gpu in gpus.all_gpus().values()} <= set(ARCHS)
    assert {"RTX 3090", "RTX 4090", "RTX 5090", "A100", "H100", "H200", "B200"} <= set(
        gpus.all_gpus()
    )


def test_the_h200_is_measured_and_others_follow_it():
    h200, a100 = gpus.find("H200"), gpus.find("A100")
    assert h200.is_measured
    assert not a100.is_measured
    assert a100.boundary == h200.boundary
    assert a100.load == pytest.approx(h200.load * h200.clock_ghz / 1.41)
    assert a100.memory_bytes / 2039 == pytest.approx(h200.memory_bytes / 4800)
    assert "H200" in a100.measured
    assert gpus.for_arch("sm_90a") == h200
    assert gpus.for_arch("cpu") is None


@pytest.mark.parametrize("name", ["rtx-4090", "NVIDIA GeForce RTX 4090", "RTX 4090"])
def test_names_as_drivers_and_people_write_them(name):
    assert gpus.find(name).name == "RTX 4090"
    assert gpus.knows(name)


def test_unknown_names():
    with pytest.raises(FusecError, match=r"unknown GPU 'RTX 9': known are RTX 3090, .*H200"):
        gpus.find("RTX 9")
    assert not gpus.knows("RTX 9")


def test_a_measurement_replaces_the_sheet(folder):
    path = gpus.save(measurement("NVIDIA GeForce RTX 4090", arch="sm_89", boundary=1.25))
    assert path == folder / "nvidia-geforce-rtx-4090.json"
    found = gpus.find("RTX 4090")
    assert (found.boundary, found.is_measured) == (1.25, True)
    assert found.measured == "fusec calibrate, 2026-01-02"
    gpus.save(measurement("NVIDIA Novelty", arch="sm_90a"))
    assert gpus.find("novelty").is_measured
    assert [p.name for p in folder.iterdir() if p.suffix != ".json"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged: run fusec calibrate again"),
        ("[]", "no 'name' in it"),
        (json.dumps({"name": "x"}), "no 'arch' in it"),
    ],
)
def test_damaged_measurements(folder, text, message):
    folder.mkdir()
    (folder / "x.json").write_text(text)
    with pytest.raises(FusecError, match=message):
        gpus.find("H200")


def test_measurements_that_make_no_sense(folder):
    with pytest.raises(FusecError, match="expected boundary above 0, found -1"):
        gpus.save(measurement("x", boundary=-1))
    assert not folder.exists()
