"""The command line on good input: what each command prints, writes and returns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fusec as library
from fusec import verifier
from fusec.ir import parse
from fusec.models.chat import ChatTemplate
from fusec.models.tokenizer import StreamDecoder
from fusec.passes.pipeline import LEVELS
from tests.command import fusec

LAYERS = 8  # of the tiny model
FORWARD = {0: 18 * LAYERS + 2, 1: 10 * LAYERS + 1, 2: 6 * LAYERS + 1, 3: 5 * LAYERS + 1}
PER_LAYER = {0: 18, 1: 10, 2: 6, 3: 5}
APART = {"embed": 1, "sample": 1}
OTHER = {0: APART, 1: APART, 2: APART, 3: {"sample": 1}}
O2_PASSES = [
    *("decode-graph", "factor-norms", "fuse-matvecs", "fuse-norm-matvec", "fuse-ropes"),
    *("fuse-kv-write", "fuse-swiglu", "fuse-matvec-residual", "fuse-norm-swiglu"),
    *("fuse-rope-kv-write", "schedule"),
]

pytestmark = pytest.mark.xdist_group("cli")


def plain(text: str) -> str:
    """Text without the padding of tables."""
    return re.sub(r"[ \t]+", " ", text)


@pytest.fixture(scope="module")
def compiled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder."""
    folder = tmp_path_factory.mktemp("compiled") / "tiny"
    ran = fusec("compile", tiny_model, "-o", folder, "--context", 64, "--kv", "f32")
    assert ran.code == 0, ran.err
    assert f"fusec run {folder}" in ran.out
    return folder


# --- compile -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_compile_prints_the_stages_and_the_plan(tiny_model: Path, level: int) -> None:
    ran = fusec("compile", tiny_model, f"-O{level}")
    assert (ran.code, ran.err) == (0, "")
    text = plain(ran.out)
    assert "pass nodes ms hits refused merges" in text
    nodes = 18 * LAYERS + 4  # and embedding, last norm, output matrix, argmax
    assert f"decode-graph {nodes} -> {nodes}" in text
    if level:
        assert re.search(r"fuse-norm-matvec \d+ -> \d+ \d+\.\d 17 0 rms_norm -> matvec", text)
    other = ", ".join(f"{count} {group}" for group, count in OTHER[level].items())
    assert (
        f"llama_decode at -O{level} for cpu: {FORWARD[level]} dispatches a token, "
        f"{PER_LAYER[level]} a layer (+ {other}); critical path "
    ) in text
    assert re.search(r"weights [\d.]+ KiB, KV cache [\d.]+ KiB, arena [\d.]+ KiB\n", text)
    assert re.search(r"\d+ kernels ready in \d+\.\d s\n", text)
    rows = re.findall(r"^ ?(\S+_[0-9a-f]{8}) (\d+) ?$", text, re.M)
    assert sum(int(count) for _, count in rows) == FORWARD[level] + len(OTHER[level])
    assert max(map(len, ran.out.splitlines()[:-2])) <= 140


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
    assert len(list((folder / "stages").iterdir())) == 3
    assert fusec("compile", tiny_model, "-o", folder, "-O1", "--context", 32).code == 0
    assert len(list((folder / "stages").iterdir())) == 8
    assert list(tmp_path.iterdir()) == [folder]
    assert fusec("inspect", folder, "--json").json["level"] == 1


def test_compile_into_an_empty_folder_and_a_new_path(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "deep"):
        assert fusec("compile", tiny_model, "-o", folder, "--context", 64).code == 0
        assert (folder / "plan.json").is_file()


@pytest.mark.parametrize(("level", "early"), [(2, 0), (3, 41)])  # all but the first of 42
def test_dot_marks_the_launches_that_start_early(
    tiny_model: Path, tmp_path: Path, level: int, early: int
) -> None:
    file = tmp_path / "plan.dot"
    options = ("--target", "sm_90a", "-O", level, "--dot", file)
    assert fusec("inspect", tiny_model, *options).code == 0
    assert file.read_text().count("arrowhead=none") == early


def test_dot_is_that_of_the_folder(compiled: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ("--context", 64, "--kv", "f32", "--dot", tmp_path / "plan.dot")
    assert fusec("compile", tiny_model, *options).code == 0
    assert (tmp_path / "plan.dot").read_text() == (compiled / "plan.dot").read_text()
    assert fusec("inspect", compiled, "--dot", tmp_path / "again.dot").code == 0
    assert (tmp_path / "again.dot").read_text() == (tmp_path / "plan.dot").read_text()


def test_dump_after_prints_graphs(tiny_model: Path) -> None:
    ran = fusec("compile", tiny_model, "--dump-after", "fuse-swiglu")
    assert ran.out.startswith("# after fuse-swiglu: ")
    assert "# silu -> mul => swiglu: 8 hits\n" in ran.out
    assert ran.out.count("\ngraph llama_decode(") == 1
    every = fusec("compile", tiny_model, "--dump-after", "all").out
    dumped = re.findall(r"^# after ([a-z-]+): ", every, re.M)
    assert dumped == O2_PASSES
    assert every.count("\ngraph llama_decode(") == len(O2_PASSES)


def test_stop_after_compiles_the_graph_of_that_pass(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    ran = fusec("compile", tiny_model, "--stop-after", "fuse-norm-matvec", "-o", folder)
    assert "fuse-norm-matvec" in ran.out
    assert "fuse-ropes" not in ran.out
    whole = fusec("run", tiny_model, "--prompt-ids", "5,6", "-n", 6, "--temp", 0, "--json").json
    again = fusec("run", folder, "--prompt-ids", "5,6", "-n", 6, "--temp", 0, "--json").json
    assert again["ids"] == whole["ids"]


def test_disable_leaves_a_rule_out(tiny_model: Path) -> None:
    ran = fusec("compile", tiny_model, "--disable", "swiglu", "--disable", "fuse-ropes")
    assert ran.code == 0
    assert "fuse-swiglu" not in ran.out
    assert "fuse-ropes" not in ran.out
    data = fusec("inspect", tiny_model, "--disable", "swiglu", "--json").json
    # norm+gate/up, silu and mul apart: two launches more a layer
    assert data["dispatches"]["per_layer"] == 8


# --- run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_trained_model_tells_its_golden_story(shared_data: Path, level: int) -> None:
    golden = json.loads((shared_data / "stories260K.golden.json").read_text())
    options = ("--prompt-ids", "1", "-n", "199", "--temp", "0", "--kv", "f32", "--json")
    found = fusec("run", shared_data / "stories260K.gguf", *options, "-O", level).json
    assert found["prompt_ids"] == [1]
    assert found["ids"] == golden["greedy"]
    assert found["text"].startswith("Once upon a time, there was a little girl named Lily")


def test_json_has_ids_text_and_timings(tiny_model: Path) -> None:
    ran = fusec("run", tiny_model, "-p", "hello", "-n", "9", "--ignore-eos", "--json")
    found = ran.json
    assert ran.out.count("\n") == 1
    assert list(found) == ["prompt_ids", "ids", "text", "timings"]
    assert found["prompt_ids"] == library.driver.Model.open(tiny_model).tokenizer.encode("hello")
    assert len(found["ids"]) == 9
    assert isinstance(found["text"], str)
    timings = found["timings"]
    assert (timings["prompt_tokens"], timings["decode_tokens"]) == (len(found["prompt_ids"]), 8)
    assert timings["tok_s"] == pytest.approx(8 / timings["decode_s"])
    assert timings["load_s"] > 0
    assert timings["first_token_s"] > 0


def test_streamed_text_is_the_text_of_the_json(tiny_model: Path) -> None:
    options = ("run", tiny_model, "-p", "hello", "-n", "20", "--seed", "3", "--ignore-eos")
    ran = fusec(*options)
    assert ran.out == fusec(*options, "--json").json["text"] + "\n"
    assert re.fullmatch(
        r"prompt \d+ tokens, first token after \d+ ms, 19 tokens at [\d.]+ tok/s\n", ran.err
    )


def test_a_text_prompt_is_its_ids(tiny_model: Path) -> None:
    by_text = fusec("run", tiny_model, "-p", "a b", "-n", 8, "--temp", 0, "--json").json
    ids = ", ".join(map(str, by_text["prompt_ids"]))  # blanks are fine
    by_ids = fusec("run", tiny_model, "--prompt-ids", ids, "-n", 8, "--temp", 0, "--json").json
    assert by_ids["ids"] == by_text["ids"]
    assert by_ids["text"] == by_text["text"]


def test_a_folder_runs_like_its_model(tiny_model: Path, compiled: Path) -> None:
    options = ("--prompt-ids", "9,8,7", "-n", "12", "--temp", "0", "--json")
    folder = fusec("run", compiled, *options).json
    model = fusec("run", tiny_model, *options, "--context", 64, "--kv", "f32").json
    assert folder["ids"] == model["ids"]


def test_sampling_is_reproducible_by_seed(tiny_model: Path) -> None:
    def ids(seed: int) -> list[int]:
        options = ("--prompt-ids", "7", "-n", "24", "--temp", "1.5", "--top-k", "0")
        ran = fusec("run", tiny_model, *options, "--ignore-eos", "--seed", seed, "--json")
        return ran.json["ids"]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_sampling_options_reach_the_sampler(tiny_model: Path) -> None:
    greedy = fusec("run", tiny_model, "--prompt-ids", "7", "-n", 10, "--temp", 0, "--json").json
    for narrow in (("--top-k", 1), ("--top-p", 1e-9), ("--min-p", 1)):
        found = fusec(
            "run", tiny_model, "--prompt-ids", "7", "-n", 10, "--temp", 5, *narrow, "--json"
        ).json
        assert found["ids"] == greedy["ids"], narrow
    strict = ("--repeat-penalty", 1e6, "--temp", 0, "--ignore-eos")
    found = fusec("run", tiny_model, "--prompt-ids", "7", "-n", 30, *strict, "--json").json
    assert len({7, *found["ids"]}) == 31  # nothing twice


def test_new_tokens_default_to_the_room_there_is(tiny_model: Path) -> None:
    options = ("--prompt-ids", "1,2,3", "--context", "10", "--ignore-eos", "--json")
    assert len(fusec("run", tiny_model, *options).json["ids"]) == 8
    assert len(fusec("run", tiny_model, *options[:2], "--ignore-eos", "--json").json["ids"]) == 128
    assert fusec("run", tiny_model, *options, "-n", 0).json["ids"] == []


def test_the_context_grows_with_what_is_asked_for(tiny_model: Path) -> None:
    found = fusec("run", tiny_model, "--prompt-ids", "4", "-n", 512, "--ignore-eos", "--json").json
    assert len(found["ids"]) == 512


def test_chat_renders_the_template(tiny_model: Path) -> None:
    found = fusec("run", tiny_model, "--chat", "-p", "Hello", "-n", 4, "--json").json
    tokenizer = library.driver.Model.open(tiny_model).tokenizer
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert found["prompt_ids"] == tokenizer.encode(text, bos=False)
    assert found["prompt_ids"].count(tokenizer.tokens.index("<|im_start|>")) == 2


def test_a_conversation_on_standard_input(tiny_model: Path) -> None:
    turns = ["hello", "again"]
    options = ("--chat", "-n", 4, "--temp", 0, "--ignore-eos")
    ran = fusec("run", tiny_model, *options, stdin="hello\n\n  again \n")  # a blank line is no turn
    assert (ran.code, ran.err) == (0, "")
    model, engine = library.driver.Model.open(tiny_model), library.load(tiny_model)
    engine.stop = frozenset()
    template, messages, wanted = ChatTemplate.from_gguf(model.file), [], ""
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        ids = model.tokenizer.encode(template.render(messages), bos=False)
        decoder = StreamDecoder(model.tokenizer, ids)
        answer = "".join(map(decoder.push, engine.generate(ids, 4))) + decoder.finish()
        messages.append({"role": "assistant", "content": answer})
        wanted += answer + "\n"
    assert ran.out == wanted
    assert fusec("run", tiny_model, "--chat", stdin="").out == ""


def test_threads_change_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run", tiny_model, "--prompt-ids", "5", "-n", 8, "--temp", 0, "--json")
    default = fusec(*options).json["ids"]
    assert fusec(*options, "--threads", 3).json["ids"] == default
    monkeypatch.setenv("FUSEC_THREADS", "1")
    assert fusec(*options).json["ids"] == default


# --- inspect -------------------------------------------------------------------------------------


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
    for target, level, forward in [*levels, ("sm_80", 3, 151), ("sm_90a", 3, 121)]:
        data = fusec("inspect", path, f"-O{level}", "--target", target, "--json").json
        assert data["dispatches"]["forward"] == forward


def test_inspect_prints_the_graph_at_a_stage(tiny_model: Path, compiled: Path) -> None:
    ran = fusec("inspect", tiny_model, "--stage", "fuse-ropes")
    text = ran.out
    assert text.startswith("# after fuse-ropes: ")
    graph = parse("".join(line for line in text.splitlines(True) if line[0] != "#"))
    assert {"ropes", "norm_matvec"} <= {node.kind for node in graph.nodes}
    folder = fusec("inspect", compiled, "--stage", "fuse-ropes").out
    assert re.sub(r"\d+\.\d ms|\[(64|512), 2|f16|f32", "", folder) == re.sub(
        r"\d+\.\d ms|\[(64|512), 2|f16|f32", "", text
    )


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
    assert data["dispatches"]["per_layer"] == PER_LAYER[level]


@pytest.mark.parametrize("command", ["compile", "inspect", "run", "profile", "perplexity"])
def test_help_says_the_default_level(command: str) -> None:
    text = re.sub(r"[\s│]+", " ", fusec(command, "--help").out)
    assert "3 deep. (default: 3 on a GPU, 2 on the CPU)" in text


# --- verify --------------------------------------------------------------------------------------


def test_verify_agrees(tiny_model: Path) -> None:
    ran = fusec("verify", tiny_model, "--tokens", 20, "--context", 32)
    assert (ran.code, ran.err) == (0, "")
    rows = re.findall(r"-O(\d) +(f16|f32) +(\S+) +(\S+) +same +same +agrees +ok", ran.out)
    assert [(level, kv) for level, kv, _, _ in rows] == [
        *(("0", "f16"), ("1", "f16"), ("2", "f16"), ("3", "f16")),
        *(("0", "f32"), ("1", "f32"), ("2", "f32"), ("3", "f32")),
    ]
    assert all(0 < float(error) < float(bound) for _, _, error, bound in rows)


def test_verify_one_level_as_json(tiny_model: Path) -> None:
    options = ("--level", "1", "--kv", "f32", "--tokens", "3", "--context", "32", "--seed", "5")
    data = fusec("verify", tiny_model, *options, "--json").json
    assert [v["level"] for v in data] == [0, 1]
    assert all(v["ok"] and v["kv"] == "f32" and v["error"] < v["bound"] for v in data)


def test_verify_fails_when_a_level_differs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = verifier.driver.load, []

    def last_bit(*args: object, **options: object) -> library.Engine:
        engine = load(*args, **options)
        loaded.append(engine)
        if len(loaded) % 4 == 3:  # -O2 of -O0 to -O3
            logits = engine.logits

            def changed(ids: list[int]) -> object:
                found = logits(ids)
                found.view("i4")[-1, -1] ^= 1
                return found

            monkeypatch.setattr(engine, "logits", changed)
        return engine

    monkeypatch.setattr(verifier.driver, "load", last_bit)
    options = ("verify", tiny_model, "--kv", "f32", "--tokens", 2, "--context", 32)
    ran = fusec(*options)
    assert ran.code == 1
    assert re.search(r"-O1 .* same +same +agrees +ok", ran.out)
    assert re.search(r"-O2 .* differs +differs +agrees +WRONG", ran.out)
    assert [v["ok"] for v in json.loads(fusec(*options, "--json").out)] == [True, True, False, True]


# --- synth, help, the process --------------------------------------------------------------------


def test_synth_writes_the_same_file_for_the_same_seed(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        ran = fusec("synth", "tiny", "-o", path, "--seed", seed, "--context", 99)
        assert ran.code == 0
        assert re.fullmatch(rf"{re.escape(str(path))}: 0\.\d MB\n", ran.out)
    assert sorted(tmp_path.iterdir()) == paths
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b
    assert a != c
    assert fusec("inspect", paths[0], "--context", 99, "--json").json["context"] == 99


def test_quantize_writes_a_model_that_runs(tmp_path: Path) -> None:
    plain, small = tmp_path / "f16.gguf", tmp_path / "q.gguf"
    assert fusec("synth", "tiny", "-o", plain, "--quant", "F16").code == 0
    ran = fusec("quantize", plain, small, "q5_k_m", "--quick")
    assert ran.code == 0
    assert re.fullmatch(rf"{re.escape(str(small))}: 0\.\d MB, from 1\.\d MB\n", ran.out)
    assert sorted(tmp_path.iterdir()) == [plain, small]
    types = fusec("inspect", small, "--stage", "decode-graph").out
    assert "@blk.7.ffn_down.weight: q6_k" in types
    assert "@blk.7.attn_q.weight: q5_1" in types


def test_help_explains_every_command_and_option() -> None:
    main = fusec("--help")
    assert main.code == 0
    assert fusec().out == main.out
    for command in ("compile", "run", "inspect", "verify", "perplexity", "synth", "quantize"):
        assert re.search(rf"\b{command}\b +\S+ \S+", main.out)
        text = fusec(command, "--help").out
        assert f"Usage: fusec {command} [OPTIONS]" in text
        for line in text.splitlines():
            # a name, perhaps a short one, a value, and then what it means
            if option := re.match(r"│ \*? +(--[a-z-]+) (.*?)│$", line):
                assert len(option[2].split()) >= 3, f"{command} {option[1]} is not explained"
    run = fusec("run", "--help").out
    for option in (
        *("--prompt", "--prompt-ids", "--chat", "-n", "-O", "--context", "--kv", "--temp"),
        *("--top-k", "--top-p", "--min-p", "--repeat-penalty", "--seed", "--json"),
    ):
        assert option in run


def test_version() -> None:
    assert re.fullmatch(r"fusec \d+\.\d+\S*\n", fusec("--version").out)


def process(*args: object, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fusec.cli", *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def test_as_a_process(tiny_model: Path) -> None:
    ids = ["--prompt-ids", "7", "-n", "4", "--temp", "0", "--json"]
    good = process("run", tiny_model, *ids)
    out, err = good.communicate(timeout=60)
    assert (good.returncode, err) == (0, "")
    assert json.loads(out)["ids"] == fusec("run", tiny_model, *ids).json["ids"]
    bad = process("run", tiny_model, "-p", "")
    assert bad.communicate(timeout=60) == (
        "",
        "error: the prompt is empty: expected some text behind -p\n",
    )
    assert bad.returncode == 2


def test_a_reader_that_goes_away_ends_it_quietly(tiny_model: Path) -> None:
    running = process("run", tiny_model, "-p", "a", "-n", 511, "--ignore-eos")
    assert running.stdout
    assert running.stderr
    running.stdout.read(1)
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=60) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_ends_it_quietly(tiny_model: Path) -> None:
    running = process("run", tiny_model, "--chat", "-n", 4)
    assert running.stdin
    assert running.stdout
    running.stdin.write("hello\n")
    running.stdin.flush()
    assert running.stdout.read(1)  # it answers, and then waits for the next turn
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert err == ""
    assert running.returncode == 130


def test_text_that_standard_output_cannot_take(tiny_model: Path) -> None:
    running = process(
        "run", tiny_model, "-p", "é", "-n", 64, "--ignore-eos", PYTHONIOENCODING="ascii"
    )
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
