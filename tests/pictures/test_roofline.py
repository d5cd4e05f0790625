"""`fusec roofline`: floors by hand, predictions of the cost model, measured times beside them."""

from __future__ import annotations

import json

import pytest

from fusec import driver, roofline
from fusec.passes import cost, gpus
from tests.command import fusec, refused


@pytest.fixture(scope="module")
def data(tiny_model):
    return roofline.run(tiny_model, ["H200", "A100"], (0, 2), 64)


def test_floors(data, tiny_model):
    h200 = gpus.find("H200")
    row = data["rows"][0]
    weights = driver.compile(tiny_model).plan.weights_bytes
    assert data["weights_bytes"] == weights
    cache = 8 * 65 * 2 * 2 * 16 * 2  # layers, positions, k and v, heads, elements, f16
    assert data["bytes"] == weights + cache
    assert row["fits_l2"]
    assert row["bytes_us"] == pytest.approx(data["bytes"] / h200.cache_bytes / 1e3)
    assert row["floor"] == max(row["bytes_us"], row["flops_us"])
    assert data["steps"][0] > data["steps"][2]


def test_predictions_are_the_cost_models(data, tiny_model):
    for row in data["rows"]:
        gpu = gpus.find(row["gpu"])
        for level, tok_s in row["tok_s"].items():
            plan = driver.compile(tiny_model, target=gpu.arch, level=level, context=512).plan
            assert 1e6 / tok_s == pytest.approx(cost.token_us(plan, gpu))
        best = max(row["tok_s"].values())
        assert sum(row["walls"].values()) == pytest.approx(1e6 / best, rel=0.01)
        assert row["walls"][row["binds"]] == max(row["walls"].values())


def test_measurements_stand_beside_predictions(tiny_model, tmp_path):
    bench, profile = tmp_path / "b.json", tmp_path / "p.json"
    rows = [
        {"level": 0, "launch": "eager", "l2": "off", "us_per_token": 9.0},
        {"level": 0, "launch": "graph", "l2": "off", "us_per_token": 100.0},
        {"level": 0, "launch": "graph", "l2": "window", "us_per_token": 7.0},
    ]
    bench.write_text(json.dumps({"gpu": "NVIDIA H200", "results": rows}))
    profile.write_text(json.dumps({"gpu": "NVIDIA H200", "level": 2, "token": 50.0, "walls": {}}))
    data = roofline.run(tiny_model, ["H200"], (0, 2), 64, [bench, profile])
    found = {m["level"]: m for m in data["measured"]}
    assert {level: m["measured_us"] for level, m in found.items()} == {0: 100.0, 2: 50.0}
    for level, item in found.items():
        guess = 1e6 / data["rows"][0]["tok_s"][level]
        assert item["error"] == pytest.approx(guess / item["measured_us"] - 1)


def test_the_command_lists_every_gpu_and_chip(tiny_model):
    ran = fusec("roofline", tiny_model, "-O", "0")
    assert ran.code == 0, ran.err
    for name in (*gpus.all_gpus(), *(asic.name for asic in gpus.ASICS)):
        assert name in ran.out
    assert "750 tok/s FP16 naive" in ran.out
    only = fusec("roofline", tiny_model, "-O", "0", "--gpu", "rtx 4090", "--json").json
    assert [row["gpu"] for row in only["rows"]] == ["RTX 4090"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "vax"), "unknown GPU 'vax': known are RTX 3090"),
        (("-O", "9"), "no level 9"),
        (("--position", "-1"), "--position: expected at least 0"),
        (("--position", "100000"), "expected a context from 1 to 512"),
        (("--measured", "/no/such"), "/no/such: cannot be read"),
        (("--measured", __file__), "expected what fusec bench or profile --json writes"),
    ],
)
def test_the_command_refuses(tiny_model, options, message):
    assert message in refused("roofline", tiny_model, "-O", "0", *options[:0], *options)
