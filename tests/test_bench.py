"""`fusec bench`: what is measured, what the rows and the JSON hold, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fusec import bench, driver
from fusec.bench import Plan, facts, tokens
from fusec.bench import peers as bench_peers
from fusec.bench.table import COLUMNS, lines, table
from fusec.codegen.cuda import probe
from fusec.codegen.cuda.build import compile_many
from fusec.errors import FusecError
from fusec.ir.ops import weight_bytes_read
from fusec.passes.pipeline import LEVELS
from tests.command import fusec, refused
from tests.gguf_edit import edited
from tests.graphs import experts_graph, llama_graph


@pytest.fixture(scope="module")
def measured(tiny_model):
    plan = Plan(lengths=(4, 6), levels=(0, 2), repeats=2, prompt=3, threads=1, pp=(1, 20))
    return bench.run(tiny_model, plan)


def test_a_row_for_each_level_and_length(measured, tiny_model):
    rows = measured["results"]
    assert [(row["level"], row["n"]) for row in rows] == [(0, 4), (0, 6), (2, 4), (2, 6)]
    for row in rows:
        assert row["model"] == tiny_model.stem
        assert row["prompt"] == 3
        assert row["tok_s"] * row["us_per_token"] == pytest.approx(1e6)
        assert row["spread"] >= 0
        wanted = len(driver.compile(tiny_model, level=row["level"]).plan.launches)
        assert row["dispatches"] == wanted
        nbytes = row["gb_s"] * 1e3 * row["us_per_token"]
        assert 0.5 < nbytes / tiny_model.stat().st_size < 1  # the file holds a vocabulary too


def test_a_row_for_each_level_and_prompt(measured, tiny_model):
    rows = measured["prompts"]
    assert [(row["level"], row["prompt"]) for row in rows] == [(0, 1), (0, 20), (2, 1), (2, 20)]
    for row in rows:
        assert (row["model"], row["launch"], row["n"]) == (tiny_model.stem, "cpu", 0)
        assert row["tok_s"] * row["us_per_token"] == pytest.approx(1e6)
        assert row["spread"] >= 0
        assert row["gb_s"] is row["dispatches"] is None  # those are of one token


class Recorder:
    """An engine whose calls take a second of a clock of its own, waiting for what was fed three."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def reset(self):
        self.now += 1
        self.calls.append("reset")

    def feed(self, ids):
        self.now += 1
        self.calls.append(len(ids))

    def wait(self):
        self.now += 3 if isinstance(self.calls[-1], int) else 1
        self.calls.append("wait")


def test_a_prompts_time_ends_with_the_devices_work(monkeypatch):
    engine = Recorder()
    monkeypatch.setattr(tokens.time, "perf_counter", lambda: engine.now)
    assert tokens.seconds_of_prompt(engine, [5] * 7) == 4  # as to feed it and to wait for that
    assert engine.calls == ["reset", "wait", 7, "wait"]


@pytest.mark.parametrize(
    ("lengths", "pp", "wanted"),
    [
        ((128,), (), (None, None)),
        ((128,), (16, 512), (None, None)),
        ((128,), (16, 2048), (None, 2048)),
        ((1000,), (16, 600), (1016, 1016)),
        ((1000,), (2048,), (1016, 2048)),
    ],
)
def test_new_tokens_have_no_longer_context_because_of_a_prompt(lengths, pp, wanted):
    assert bench.contexts(Plan(lengths=lengths, pp=pp)) == wanted


def test_a_prompt_may_need_an_engine_of_its_own(tiny_model, monkeypatch):
    monkeypatch.setattr(driver, "DEFAULT_CONTEXT", 8)
    plan = Plan(lengths=(2,), levels=(2,), prompt=3, repeats=1, threads=1, pp=(4, 40))
    found = bench.run(tiny_model, plan)
    assert [row["prompt"] for row in found["prompts"]] == [4, 40]
    assert [row["n"] for row in found["results"]] == [2]


def test_the_usual_prompt_is_no_longer_than_the_model_was_trained_for(tiny_model, tmp_path):
    short = edited(tiny_model, tmp_path / "m.gguf", keys={"llama.context_length": 100})
    for path, wanted in ((tiny_model, (128, 512)), (short, (100, 100))):
        found = [bench.default_prompts(path, target) for target in ("cpu", "sm_90a")]
        assert found == [(n,) for n in wanted]


def test_the_json_says_where_the_numbers_come_from(measured):
    data = json.loads(json.dumps(measured))
    assert {"gpu", "driver", "versions", "commit", "command", "prompts", "results"} <= set(data)
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
    body = re.split(r"─ *\n", text)[1]
    prompts, new = (part.splitlines() for part in re.split(r"\n *\n", body.strip()))
    assert [line.split(" cpu ")[1].split()[0] for line in prompts] == ["pp1", "pp20"] * 2
    new_tests = [" ".join(line.split(" cpu ")[1].split()[:3]) for line in new]
    assert new_tests == ["tg4 @ d3", "tg6 @ d3"] * 2
    assert "-O2" in text
    assert "gap us" not in text  # nobody measured it on the CPU
    assert "l2" not in text  # it has none to ask for


def test_it_says_which_row_it_measures(tiny_model):
    plan = Plan(lengths=(2,), levels=(0, 2), repeats=1, prompt=3, threads=1, pp=(4,))
    said = []
    bench.run(tiny_model, plan, lambda *note: said.append(note))
    assert [note for note in said if note[0].split()[-1] in ("pp4", "d3")] == [
        ("-O0 cpu pp4", 0, 4),
        ("-O0 cpu tg2 @ d3", 1, 4),
        ("-O2 cpu pp4", 2, 4),
        ("-O2 cpu tg2 @ d3", 3, 4),
    ]
    assert ("-O2 cpu compiling", 2, 4) in said


def test_the_lines_of_the_machine(measured):
    assert any("cores" in line for line in lines(measured))


def test_only_one_row_of_a_matrix_that_is_only_embedded_counts():
    tied, apart = (llama_graph(layers=1, vocab=64, tied=tied) for tied in (True, False))
    one_row = sum(v.nbytes for v in tied.weights if v.name == "@token_embd.weight") // 64
    assert weight_bytes_read(tied) == sum(v.nbytes for v in tied.weights)
    assert weight_bytes_read(apart) == weight_bytes_read(tied) + one_row


def test_of_experts_a_token_reads_those_that_are_chosen() -> None:
    few, more = (experts_graph(experts=count, used=2) for count in (4, 64))
    router = 64 * 4  # bytes of a row
    assert weight_bytes_read(more) == weight_bytes_read(few) + 60 * router


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (1,)}, "expected -n from 2, found"),
        ({"lengths": ()}, "expected -n from 2"),
        ({"prompt": 0}, "expected --prompt from 1"),
        ({"repeats": 0}, "expected --repeats from 1, found 0$"),
        ({"pp": (16, 0)}, "expected --pp from 1"),
        ({"levels": (7,)}, "unknown level -O7: known are 0, 1, 2, 3"),
    ],
)
def test_plans_that_measure_nothing(options, message):
    with pytest.raises(FusecError, match=message):
        Plan(**options)


def test_more_tokens_than_the_model_was_trained_for(tiny_model):
    with pytest.raises(
        FusecError, match=r"600 new .* prompt of 16 .* of 512: expected -n up to 496"
    ):
        bench.run(tiny_model, Plan(lengths=(600,), levels=(2,)))
    with pytest.raises(FusecError, match=r"prompt of 512 .* of 512: expected a shorter prompt"):
        bench.run(tiny_model, Plan(lengths=(2,), levels=(2,), prompt=512))
    with pytest.raises(FusecError, match=r"a prompt of 513 tokens .* of 512"):
        bench.run(tiny_model, Plan(lengths=(2,), repeats=1, levels=(2,), pp=(513,)))


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
    ran = fusec("bench", tiny_model, "-n", "2", "--repeats", 1, "--threads", 1, "-o", path)
    assert ran.code == 0, ran.err
    found = json.loads(path.read_text())
    assert [row["level"] for row in found["results"]] == list(LEVELS)
    assert [(row["level"], row["prompt"]) for row in found["prompts"]] == [(n, 128) for n in LEVELS]


def test_the_command_writes_its_json(tiny_model, tmp_path):
    path = tmp_path / "bench.json"
    ran = fusec(
        *("bench", tiny_model, "-n", "4", "-O", "2", "--repeats", 1, "--threads", 1),
        *("--pp", "16,24", "-o", path),
    )
    assert ran.code == 0, ran.err
    assert "tg4 @ d16" in ran.out
    assert "pp16 " in ran.out
    found = json.loads(path.read_text())
    (row,) = found["results"]
    assert (row["level"], row["n"], row["launch"]) == (2, 4, "cpu")
    assert [(row["prompt"], row["n"]) for row in found["prompts"]] == [(16, 0), (24, 0)]


def test_its_json_is_all_that_it_prints(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("-n", "4", "-O", "2", "--repeats", 1, "--threads", 1, "--pp", "0", "--json")
    assert [row["n"] for row in fusec("bench", tiny_model, *options).json["results"]] == [4]
    assert not list(tmp_path.iterdir())
    both = fusec("bench", tiny_model, *options, "-o", "b.json")
    assert both.json == json.loads((tmp_path / "b.json").read_text())
    assert both.err == "written to b.json\n"


@pytest.mark.parametrize("none", ["0", ""])
def test_no_prompts_where_nobody_wants_any(tiny_model, none):
    options = ("-n", "4", "-O", "2", "--repeats", 1, "--threads", 1)
    ran = fusec("bench", tiny_model, *options, "--pp", none)
    assert "tg4 @ d16" in ran.out
    assert "pp128" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n", "4,x"), "-n: expected numbers like 1,2, found 'x'"),
        (("-O", "-1"), "-O: expected numbers like 1,2, found '-1'"),
        (("--pp", "512,x"), "--pp: expected numbers like 1,2, found 'x'"),
        (("--compare", "jax"), "unknown 'jax'"),
        (("-o", "/no/such/folder/b.json"), "cannot write here"),
    ],
)
def test_the_command_refuses(tiny_model, arguments, message):
    assert message in refused("bench", tiny_model, *arguments)


@pytest.mark.cuda
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


def test_a_resident_kernel_has_a_row_beside_each_graph_that_may_have_one() -> None:
    plan = bench.Plan(levels=(2, 3, 4), resident=True, eager=True)
    assert list(bench.cases_of(plan, ("graph", "eager", "resident"), ("auto",))) == [
        (2, "auto", "eager"),
        (2, "auto", "graph"),
        (3, "auto", "graph"),
        (3, "auto", "resident"),
        (4, "auto", "graph"),
        (4, "auto", "resident"),
    ]
    with pytest.raises(FusecError, match="--resident is for a GPU with clusters and -O3 or more"):
        list(bench.cases_of(plan, ("cpu",), ("off",)))
    with pytest.raises(FusecError, match="found --target cpu and -O 0,1"):
        list(bench.cases_of(replace(plan, levels=(0, 1)), ("graph", "resident"), ("off",)))
