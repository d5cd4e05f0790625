"""`fusec bench`: what is measured, what the rows and the JSON hold, and what is refused."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fusec import bench, driver
from fusec.bench import Plan, facts
from fusec.bench import peers as bench_peers
from fusec.bench.table import COLUMNS, lines, table
from fusec.codegen.cuda import probe
from fusec.codegen.cuda.build import compile_many
from fusec.errors import FusecError
from fusec.passes.pipeline import LEVELS
from tests.codegen.cuda.kernels import needs_compiler
from tests.command import fusec, refused
from tests.graphs import llama_graph


@pytest.fixture(scope="module")
def measured(tiny_model):
    plan = Plan(lengths=(4, 6), levels=(0, 2), repeats=2, prompt=3, threads=1)
    return bench.run(tiny_model, plan)


def test_a_row_for_each_level_and_length(measured, tiny_model):
    rows = measured["results"]
    assert [(row["level"], row["n"]) for row in rows] == [(0, 4), (0, 6), (2, 4), (2, 6)]
    for row in rows:
        assert row["model"] == tiny_model.stem
        assert row["prompt"] == 3
        assert row["tok_s"] * row["us_per_token"] == pytest.approx(1e6)
        assert row["spread"] >= 0
        wanted = driver.compile(tiny_model, level=row["level"]).plan.dispatches["forward"]
        assert row["dispatches"] == wanted
        nbytes = row["gb_s"] * 1e3 * row["us_per_token"]
        assert 0.5 < nbytes / tiny_model.stat().st_size < 1  # the file holds a vocabulary too


def test_the_json_says_where_the_numbers_come_from(measured):
    data = json.loads(json.dumps(measured))
    assert {"gpu", "driver", "versions", "commit", "command", "results"} <= set(data)
    assert data["gpu"] is None
    assert data["versions"]["python"].startswith("3.")


def test_a_row_of_repeats_by_hand():
    """Seconds a token of three runs: the median counts, and the range around it."""
    row = bench.summarize("m", [0.005, 0.004, 0.0036], prompt=16, n=8)
    assert (row.us_per_token, row.tok_s) == (pytest.approx(4000), pytest.approx(250))
    assert row.spread == pytest.approx((0.005 - 0.0036) / 0.004)
    assert bench.summarize("m", [0.004], prompt=16, n=8).spread == 0


def test_the_spread_is_shown_as_half_of_the_range():
    """Runs that lie 35% from end to end are ± 17.5%."""
    row = bench.summarize("m", [0.005, 0.004, 0.0036], prompt=16, n=8)
    assert COLUMNS["t/s"](vars(row)) == "250.0 ± 17.5%"
    assert COLUMNS["us/token"](vars(row)) == "4,000.0"
    assert COLUMNS["t/s"](vars(replace(row, tok_s=12345.6, spread=0.004))) == "12,345.6 ± 0.2%"


def test_the_table_shows_the_columns_that_have_values(measured):
    console = Console(width=200, record=True)
    console.print(table(measured))
    text = console.export_text()
    assert "pp3+tg6" in text
    assert "-O2" in text
    assert "gap us" not in text  # nobody measured it on the CPU
    assert any("cores" in line for line in lines(measured))


def test_only_one_row_of_a_matrix_that_is_only_embedded_counts():
    tied, apart = (llama_graph(layers=1, vocab=64, tied=tied) for tied in (True, False))
    one_row = sum(v.nbytes for v in tied.weights if v.name == "@token_embd.weight") // 64
    assert bench.weight_bytes_read(tied) == sum(v.nbytes for v in tied.weights)
    assert bench.weight_bytes_read(apart) == bench.weight_bytes_read(tied) + one_row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (1,)}, "expected -n from 2, found"),
        ({"lengths": ()}, "expected -n from 2"),
        ({"prompt": 0}, "expected --prompt from 1"),
        ({"repeats": 0}, "expected --repeats from 1"),
        ({"levels": (7,)}, r"no level 7: there are \[0, 1, 2, 3\]"),
    ],
)
def test_plans_that_measure_nothing(options, message):
    with pytest.raises(FusecError, match=message):
        Plan(**options)


def test_more_tokens_than_the_model_was_trained_for(tiny_model):
    with pytest.raises(FusecError, match="expected a context from 1 to 512"):
        bench.run(tiny_model, Plan(lengths=(600,), levels=(2,)))


def test_peers_that_are_not_installed_are_named(tiny_model, monkeypatch):
    monkeypatch.setattr(bench_peers, "PEERS", {"torch": "no_such_module"})
    rows, notes = bench_peers.compare(tiny_model, Plan(), ("torch",))
    assert not rows
    assert notes == ["torch: not compared, there is no Python module no_such_module here"]


def test_unknown_peers(tiny_model):
    with pytest.raises(FusecError, match=r"unknown 'jax': known are torch, llama\.cpp"):
        bench_peers.compare(tiny_model, Plan(), ("jax",))


def test_the_command_measures_every_level(tiny_model, tmp_path):
    path = tmp_path / "bench.json"
    ran = fusec("bench", tiny_model, "-n", "2", "--repeats", 1, "--threads", 1, "--json", path)
    assert ran.code == 0, ran.err
    assert [row["level"] for row in json.loads(path.read_text())["results"]] == list(LEVELS)


def test_the_command_writes_its_json(tiny_model, tmp_path):
    path = tmp_path / "bench.json"
    ran = fusec(
        "bench", tiny_model, "-n", "4", "-O", "2", "--repeats", 1, "--threads", 1, "--json", path
    )
    assert ran.code == 0, ran.err
    assert "pp16+tg4" in ran.out
    (row,) = json.loads(path.read_text())["results"]
    assert (row["level"], row["n"], row["launch"]) == (2, 4, "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n", "4,x"), "-n: expected numbers like 1,2, found 'x'"),
        (("-O", "-1"), "-O: expected numbers like 1,2, found '-1'"),
        (("--compare", "jax"), "unknown 'jax'"),
        (("--json", "/no/such/folder/b.json"), "cannot write here"),
    ],
)
def test_the_command_refuses(tiny_model, arguments, message):
    assert message in refused("bench", tiny_model, *arguments)


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_measuring_kernels_assemble(arch):
    for cubin in compile_many([probe.read(), *probe.stamps()], arch):
        assert cubin.spill_loads == 0
        assert "f64" not in cubin.ptx
        assert ("ld.global.L1::no_allocate" in cubin.ptx) == (cubin.name == "read")


def test_the_commit_is_that_of_fusec_and_of_no_folder_it_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSEC_COMMIT", raising=False)
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path))
    package = tmp_path / "site-packages" / "fusec"
    (package / "bench").mkdir(parents=True)
    (package / "__init__.py").touch()
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    theirs = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert facts.commit()[:7] != theirs[:7]  # wherever it is called
    monkeypatch.setattr(facts, "__file__", str(package / "bench" / "facts.py"))
    assert facts.commit() == "unknown"  # installed in somebody's checkout
    monkeypatch.setenv("FUSEC_COMMIT", "abc")
    assert facts.commit() == "abc"
