"""`fusec compile`: what it prints and writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fusec.ir import parse
from fusec.passes.pipeline import LEVELS
from tests.cli.counts import FORWARD, LAYERS, O2_PASSES, OTHER, PER_LAYER
from tests.command import fusec, plain, refused
from tests.params import slow_but

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.parametrize("level", slow_but([2], LEVELS))
def test_compile_prints_the_stages_and_the_plan(tiny_model: Path, level: int) -> None:
    ran = fusec("compile", tiny_model, f"-O{level}")
    assert (ran.code, ran.err) == (0, "")
    text = plain(ran.out)
    assert "pass nodes ms hits refused merges" in text
    nodes = 18 * LAYERS + 4  # and embedding, last norm, output matrix, argmax
    assert f"decode-graph {nodes} -> {nodes}" in text
    if level:  # refused is the first embedding, which the residual reads as well
        assert re.search(r"fuse-prologue \d+ -> \d+ \d+\.\d 17 1 vector -> rows", text)
    groups = {"forward": FORWARD[level], **OTHER[level]}
    counts = ", ".join(f"{count} {group}" for group, count in groups.items())
    assert (
        f"llama_decode at -O{level} for cpu: {sum(groups.values())} dispatches a token ({counts}), "
        f"{PER_LAYER[level]} a layer; critical path "
    ) in text
    cache = r"KV cache [\d.]+ KB at first and [\d.]+ KB when full"
    assert re.search(rf"weights [\d.]+ KB, {cache}, arena [\d.]+ KB\n", text)
    assert re.search(r"\d+ kernels ready in \d+\.\d s\n", text)
    rows = re.findall(r"^ ?(\S+_[0-9a-f]{8}) (\d+) ?$", text, re.M)
    assert sum(int(count) for _, count in rows) == FORWARD[level] + len(OTHER[level])
    assert max(map(len, ran.out.splitlines()[:-2])) <= 140


def test_its_json_is_the_report_of_inspect(tiny_model: Path) -> None:
    compiled, looked_at = (
        fusec(name, tiny_model, "--json").json for name in ("compile", "inspect")
    )
    for stage in (*compiled["stages"], *looked_at["stages"]):
        del stage["ms"]
    assert compiled == looked_at
    message = refused("compile", tiny_model, "--json", "--dump-after", "all")
    assert message.startswith("--json: expected no --dump-after beside it")


def test_the_stage_table_fits_a_terminal(tiny_model: Path) -> None:
    lines = fusec("compile", tiny_model).out.splitlines()
    table = lines[: lines.index("plan")]
    assert max(map(len, table)) <= 80
    for name in O2_PASSES:
        assert sum(line.split()[:1] == [name] for line in table) == 1


def test_a_compiled_folder_holds_every_part(compiled: Path) -> None:
    stages = [f"stages/{i:02d}-{name}.ir" for i, name in enumerate(O2_PASSES)]
    files = {str(p.relative_to(compiled)) for p in compiled.rglob("*") if p.is_file()}
    kernels = {name for name in files if name.startswith("kernels/")}
    assert files - kernels == {
        *("fusec.json", "plan.json", "prefill.json", "plan.dot"),
        *stages,
    }
    plan = json.loads((compiled / "plan.json").read_text())
    assert kernels == {f"kernels/{kernel['name']}.py" for kernel in plan["kernels"]}
    for name in kernels:
        source = (compiled / name).read_text()
        compile(source, name, "exec")
        assert source.startswith('"""graph ')  # headed by the IR it implements
    last = (compiled / stages[-1]).read_text()
    assert last.startswith("# after schedule: ")
    graph = parse("".join(line for line in last.splitlines(True) if line[0] != "#"))
    assert len(graph.nodes) == len(plan["launches"]) == FORWARD[2] + 2
    leftovers = [p.name for p in compiled.parent.iterdir() if p != compiled]
    assert leftovers == []


def test_compiling_again_replaces_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert fusec("compile", tiny_model, "-o", folder, "-O0", "--context", 32).code == 0
    assert len(list((folder / "stages").iterdir())) == 7
    assert fusec("compile", tiny_model, "-o", folder, "-O1", "--context", 32).code == 0
    assert len(list((folder / "stages").iterdir())) == 13
    assert list(tmp_path.iterdir()) == [folder]
    assert fusec("inspect", folder, "--json").json["level"] == 1


def test_compile_into_an_empty_folder_and_a_new_path(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "deep"):
        assert fusec("compile", tiny_model, "-o", folder, "--context", 64).code == 0
        assert (folder / "plan.json").is_file()


@pytest.mark.parametrize(("level", "early"), [(2, 0), (3, 33)])  # all but the first of 34
def test_dot_marks_the_launches_that_start_early(
    tiny_model: Path, tmp_path: Path, level: int, early: int
) -> None:
    file = tmp_path / "plan.dot"
    options = ("--target", "sm_90a", "-O", level, "--dot", file)
    assert fusec("inspect", tiny_model, *options).code == 0
    assert file.read_text().count("arrowhead=none") < max(early, 1)
    assert fusec("inspect", tiny_model, *options, "--layers", "all").code == 0
    assert file.read_text().count("arrowhead=none") == early


def test_layers_of_a_drawing(tiny_model: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "a.dot", tmp_path / "b.dot"
    clusters = {}
    for layers in ("all", "0-2", "1,3"):
        assert fusec("compile", tiny_model, "--dot", file, "--layers", layers).code == 0
        assert fusec("inspect", tiny_model, "--dot", again, "--layers", layers).code == 0
        assert file.read_text() == again.read_text()
        clusters[layers] = re.findall(r'label="layer (\d+)"', file.read_text())
    assert clusters == {"all": [*map(str, range(8))], "0-2": ["0", "1", "2"], "1,3": ["1", "3"]}
    for command, files in (("compile", "--dot"), ("inspect", "--dot, --svg or --html")):
        message = refused(command, tiny_model, "--layers", "all")
        assert f"--layers: nothing is drawn: add {files} FILE" in message


def test_dot_is_that_of_the_folder(compiled: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ("--context", 64, "--kv", "f32", "--dot", tmp_path / "plan.dot")
    assert fusec("compile", tiny_model, *options).code == 0
    assert (tmp_path / "plan.dot").read_text() == (compiled / "plan.dot").read_text()
    assert fusec("inspect", compiled, "--dot", tmp_path / "again.dot").code == 0
    assert (tmp_path / "again.dot").read_text() == (tmp_path / "plan.dot").read_text()


def test_dump_after_prints_graphs(tiny_model: Path) -> None:
    ran = fusec("compile", tiny_model, "--dump-after", "fuse-chain")
    assert ran.out.startswith("# after fuse-chain: ")
    assert "# element -> element => the latter: 8 hits\n" in ran.out
    assert ran.out.count("\ngraph llama_decode(") == 1
    every = fusec("compile", tiny_model, "--dump-after", "all").out
    dumped = re.findall(r"^# after ([a-z-]+): ", every, re.M)
    assert dumped == O2_PASSES
    assert every.count("\ngraph llama_decode(") == len(O2_PASSES)


def test_stop_after_compiles_the_graph_of_that_pass(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    ran = fusec("compile", tiny_model, "--stop-after", "fuse-prologue", "-o", folder)
    assert "fuse-prologue" in ran.out
    assert "fuse-pairs" not in ran.out
    whole = fusec("run", tiny_model, "--prompt-ids", "5,6", "-n", 6, "--temp", 0, "--json").json
    again = fusec("run", folder, "--prompt-ids", "5,6", "-n", 6, "--temp", 0, "--json").json
    assert again["ids"] == whole["ids"]


def test_disable_leaves_a_rule_out(tiny_model: Path) -> None:
    ran = fusec("compile", tiny_model, "--disable", "epilogue", "--disable", "fuse-pairs")
    assert ran.code == 0
    assert "fuse-epilogue" not in ran.out
    assert "fuse-pairs" not in ran.out
    data = fusec("inspect", tiny_model, "--disable", "epilogue", "--json").json
    # both residuals, and SiLU times up, are launches of their own
    assert data["dispatches"]["per_layer"] == 9
