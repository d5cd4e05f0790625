"""`fusec roofline`: floors by hand, predictions of the cost model, measured times beside them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fusec import driver, roofline
from fusec.ir import Builder, gpus
from fusec.ir.gpu import Gpu
from fusec.ir.ops import flops
from fusec.passes import cost
from fusec.passes.lower import lower
from fusec.passes.pipeline import passes_of, run_passes
from tests.command import fusec, refused
from tests.graphs import llama_graph
from tests.tables import row_of, rows_of
from tests.targets import ANY


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


def test_levels_that_share_their_first_passes_are_those_made_alone(tiny_model):
    """In whatever order they are asked for."""
    found = roofline.run(tiny_model, ["H200"], (3, 1, 2), 64)
    for level in (1, 2, 3):
        alone = roofline.run(tiny_model, ["H200"], (level,), 64)
        assert found["rows"][0]["tok_s"][level] == alone["rows"][0]["tok_s"][level]
        assert found["steps"][level] == alone["steps"][level]


H200 = replace(gpus.find("H200"), gap=0.0)
SLOWER = {  # what takes longer -> the wall it goes into, and the GPU on which it does
    "launches": {"boundary": 1000.0, "touch": 1000.0 + H200.touch - H200.boundary},
    "chain": {"tree": 100.0, "barrier": 100.0},
    "memory": {"memory_bytes": 1e-3, "cache_bytes": 1e-3},
    "compute": {"instruction": 10.0},
}


def row(gpu: Gpu) -> roofline.Row:
    graph = llama_graph(layers=2)
    plans = {level: lower(run_passes(graph, passes_of(level), ANY)[-1].graph, "any", level)
             for level in (0, 2)}  # fmt: skip
    return roofline._row(gpu, graph, plans, 20, roofline.needed(graph, 20))


@pytest.mark.parametrize("wall", SLOWER)
def test_the_wall_that_binds_is_the_one_that_grew(wall):
    """Each kind of time goes into its own wall and, where it is most of the token, that binds."""
    plain, slow = row(H200), row(replace(H200, **SLOWER[wall]))
    assert slow.binds == wall
    others = set(slow.walls) - {wall}
    if wall in ("memory", "compute"):  # of a launch only the larger of the two counts
        others -= {"memory", "compute"}
        assert slow.walls["memory" if wall == "compute" else "compute"] == 0
    for other in others:
        assert slow.walls[other] == pytest.approx(plain.walls[other])
    assert sum(slow.walls.values()) == pytest.approx(1e6 / max(slow.tok_s.values()))


def test_the_wall_of_launches_has_what_is_around_a_token():
    gap = replace(H200, gap=500.0)
    assert row(gap).walls["launches"] == pytest.approx(row(H200).walls["launches"] + 500)


@pytest.mark.parametrize(("name", "lanes"), [("H200", 128), ("A100", 64), ("RTX 4090", 128)])
def test_floors_of_a_model_that_does_not_stay_in_l2(name, lanes):
    gpu = replace(gpus.find(name), l2_bytes=1)
    graph = llama_graph(layers=2)
    found = row(gpu)
    assert not found.fits_l2
    nbytes = roofline.needed(graph, 20)
    assert found.bytes_us == pytest.approx(nbytes / gpu.memory_bytes / 1e3)
    operations = sum(flops(n) for n in graph.nodes)
    a_us = 2 * lanes * gpu.sms * gpu.clock_ghz * 1e3  # multiply and add, in every lane
    assert found.flops_us == pytest.approx(operations / a_us)
    resident = row(replace(gpu, l2_bytes=1 << 40))
    assert resident.fits_l2
    assert resident.bytes_us == pytest.approx(nbytes / gpu.cache_bytes / 1e3)


def test_operations_are_two_for_every_weight_that_a_product_reads():
    graph = llama_graph(layers=1, width=64, ffn=96, heads=4, kv_heads=2, vocab=64, context=32)
    products = 2 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64 + 64 * 64)
    assert sum(flops(n) for n in graph.nodes if n.op == "matvec") == products
    attends = 4 * 32 * 64  # of the whole context, by products with k and with v
    norms, rotations = 3 * 4 * 64, 3 * (64 + 32)
    rest = 2 * 64 + 96 * (4 + 1) + 64  # two residuals, silu and product, argmax
    assert sum(map(flops, graph.nodes)) == products + attends + norms + rotations + rest


@pytest.mark.parametrize(("memory", "chips"), [(1e9, 1), (1000, 3), (999, 4)])
def test_weights_are_spread_over_as_many_chips_as_they_fill(memory, chips):
    """Each reads its share, so all of them are as many times as fast."""
    b = Builder("g")
    graph = b.build(b.mul(b.input("x", (1, 750)), b.weight("w", (750,))))  # 3,000 bytes
    found = roofline._asic(gpus.Asic("chip", memory, 2.0, "", "here"), graph, 8000)
    assert found["chips"] == chips
    assert found["bytes_us"] == pytest.approx(8000 / 2.0 / 1e3 / chips)
    unknown = roofline._asic(gpus.Asic("chip", 0.0, None, "fast", "there"), graph, 8000)
    assert (unknown["chips"], unknown["bytes_us"]) == (None, None)


def test_the_tables_show_what_was_found():
    walls = {"launches": 30.0, "chain": 60.0, "memory": 10.0, "compute": 20.0}
    first = {
        **{"gpu": "one", "fits_l2": True, "bytes_us": 12.34, "flops_us": 5.678, "walls": walls},
        **{"tok_s": {0: 1234.5, 3: 8333.3}, "resident": {3: 7654.3}, "binds": "chain"},
        **{"measured": "here", "note": "n"},
    }
    second = first | {"gpu": "two", "fits_l2": False, "binds": "compute", "note": ""}
    second["resident"] = {}
    titles = ("name", "chips", "bytes_us", "published", "source")
    chip, other = ("chip", 3, 0.12345, "p", "s"), ("other", None, None, "", "")
    asics = [dict(zip(titles, cells, strict=True)) for cells in (chip, other)]
    times = {"measured_us": 1000.0, "predicted_us": 1250.0}
    measured = [{"gpu": "one", "level": 3, **times, "error": 0.25, "file": "f"}]
    data = {"rows": [first, second], "asics": asics, "measured": measured, "model": "m",
            "position": 64, "bytes": 1.5e6, "flops": 2.6e8, "steps": {0: 540, 3: 91}}  # fmt: skip
    gpu_table, chips, errors = roofline.tables(data)
    assert row_of(gpu_table, "one") == {
        "GPU": "one", "fits L2": "yes", "bytes us": "12.3", "flops us": "5.7", "-O0": "1,234",
        "-O3": "8,333", "-O3 resident": "7,654", "binds": "chain 50%", "constants": "here",
    }  # fmt: skip
    assert row_of(gpu_table, "two")["fits L2"] == "no"
    assert row_of(gpu_table, "two")["-O3 resident"] == "-"
    assert row_of(gpu_table, "two")["binds"] == "compute 17%"
    assert [list(r.values()) for r in rows_of(chips)] == [
        ["chip", "3", "0.123", "p", "s"], ["other", "", "", "", ""]
    ]  # fmt: skip
    assert list(row_of(errors, "one").values()) == [
        "one", "-O3", "1,000.0", "1,250.0", "+25%", "f"
    ]  # fmt: skip
    found = list(roofline.lines(data))
    assert found == [
        *roofline.LEGEND,
        "m at position 64: 1.5 MB and 260 million operations a token; dependent steps -O0 540, "
        "-O3 91",
        "one: n",
    ]


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


@pytest.mark.slow
def test_the_command_lists_every_gpu_and_chip(tiny_model):
    ran = fusec("roofline", tiny_model, "-O", "0")
    assert ran.code == 0, ran.err
    for name in (*gpus.all_gpus(), *(asic.name for asic in gpus.ASICS)):
        assert name in ran.out
    assert "750 tok/s FP16 naive" in ran.out
    assert "Cerebras WSE-3 1 < 0.001 " in " ".join(ran.out.split())
    walls = {row["binds"] for row in fusec("roofline", tiny_model, "--json").json["rows"]}
    (legend,) = (line for line in ran.out.splitlines() if line.startswith("binds: "))
    assert all(f"{wall} (" in legend for wall in walls)
    only = fusec("roofline", tiny_model, "-O", "0", "--gpu", "rtx 4090", "--json").json
    assert [row["gpu"] for row in only["rows"]] == ["RTX 4090"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "vax"), "unknown GPU 'vax': known are RTX 3090"),
        (("-O", "9"), "unknown level -O9: known are 0, 1, 2, 3"),
        (("--position", "-1"), "--position: expected at least 0"),
        (("--position", "100000"), "--position: expected at most 511, as the model was trained"),
        (("--measured", "/no/such"), "/no/such: cannot be read"),
        (("--measured", __file__), "expected what fusec bench or profile -o writes"),
    ],
)
def test_the_command_refuses(tiny_model, options, message):
    assert message in refused("roofline", tiny_model, "-O", "0", *options[:0], *options)
