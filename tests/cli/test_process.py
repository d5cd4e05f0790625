"""Other commands, help, and the command line as a process."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusec import cli
from fusec.cli.commands import COMMANDS, command, function_of
from tests.command import fusec, process, refused

pytestmark = pytest.mark.xdist_group("cli")


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
    assert fusec().out == fusec("-h").out == main.out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S+ \S+", main.out, re.MULTILINE)
        text = fusec(name, "--help").out
        assert f"Usage: fusec {name} [OPTIONS]" in text
        assert fusec(name, "-h").out == text
        for option in command(name).params:
            assert len((option.help or "").split()) >= 3, f"{name} {option.opts} is not explained"
            assert option.opts[0] in text or option.metavar in text
    run = fusec("run", "--help").out
    for option in (
        *("--prompt", "--prompt-ids", "--chat", "-n", "-O", "--context", "--kv", "--temp"),
        *("--top-k", "--top-p", "--min-p", "--repeat-penalty", "--seed", "--json"),
    ):
        assert option in run


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_is_its_docstring_s_first(name: str) -> None:
    doc = inspect.getdoc(function_of(name))
    assert doc is not None
    assert " ".join(doc.split("\n\n")[0].split()) == COMMANDS[name]


def test_every_module_with_a_command_is_in_the_table() -> None:
    helpers = {"commands", "completion", "console", "options", "prompts", "streams"}
    assert {entry.name for entry in pkgutil.iter_modules(cli.__path__)} - helpers == set(COMMANDS)


def test_version() -> None:
    assert re.fullmatch(r"fusec \d+\.\d+\S*\n", fusec("--version").out)
    assert fusec("-V").out == fusec("--version").out


def test_mistyped_commands_and_options() -> None:
    assert refused("bnech") == (
        "No such command 'bnech'. Did you mean 'bench'? (fusec --help explains)"
    )
    said = refused("run", "demo", "--tempp", "1")
    assert said.startswith("No such option: --tempp")
    assert "--temp" in said.removeprefix("No such option: --tempp")
    assert said.endswith("(fusec run --help explains)")
    assert refused("run") == "Missing argument 'MODEL|DIR'. (fusec run --help explains)"


def test_as_a_process(tiny_model: Path) -> None:
    ids = ["--prompt-ids", "7", "-n", "4", "--temp", "0", "--json"]
    wanted = fusec("run", tiny_model, *ids).json["ids"]  # kernels are there, and not told of, then
    good = process("run", tiny_model, *ids)
    out, err = good.communicate(timeout=60)
    assert (good.returncode, err) == (0, "")
    assert json.loads(out)["ids"] == wanted
    bad = process("run", tiny_model, "-p", "")
    assert bad.communicate(timeout=60) == (
        "",
        "error: the prompt is empty: expected some text behind -p\n",
    )
    assert bad.returncode == 2


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(tiny_model: Path) -> None:
    running = process("run", tiny_model, "-p", "a", "-n", 511, "--ignore-eos")
    assert running.stdout
    assert running.stderr
    running.stdout.read(1)
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=60) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.usefixtures("signals_heard")
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


def test_an_interrupt_while_it_is_imported_ends_it_quietly() -> None:
    script = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from fusec.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, b"")


@pytest.mark.slow
def test_text_that_standard_output_cannot_take(tiny_model: Path) -> None:
    running = process(
        "run", tiny_model, "-p", "é", "-n", 64, "--ignore-eos", PYTHONIOENCODING="ascii"
    )
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
