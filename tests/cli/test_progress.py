"""What long work says about itself: plain lines where nobody sits at a terminal, none if quiet."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusec.cli import console
from fusec.cli.commands import COMMANDS, command
from tests.command import fusec


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "EVERY", 0.02)


@pytest.fixture
def told(quickly: None, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Waits for a line on standard error and returns those that are new."""

    def wait() -> list[str]:
        until = time.monotonic() + 10
        text = ""
        while not text.endswith("\n") and time.monotonic() < until:
            time.sleep(0.01)
            text += capsys.readouterr().err
        return text.splitlines()

    return wait


def test_lines_say_what_is_done_and_how_far_it_is(told: Callable[[], list[str]]) -> None:
    with console.progress("measuring") as note:
        note("-O0 auto", 1, 4)
        assert told() == ["measuring: -O0 auto, 1 of 4, 0 s"]
        note("-O1 auto", 2, 4)
        assert told() == ["measuring: -O1 auto, 2 of 4, 0 s"]
    with console.progress("compiling", 3) as note:
        note("matvec")
        note("norm")
        assert told() == ["compiling: norm, 2 of 3, 0 s"]
    with console.progress("kernels") as note:
        note("rope")
        assert told() == ["kernels: rope, 0 s"]


def test_work_that_stands_still_is_told_of_less_often(
    told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with console.progress("reading") as note:
        note("chunk")
        assert len(told()) == 1
        time.sleep(0.1)
        monkeypatch.setattr(console, "STILL", 0.0)
        assert told()[0] == "reading: chunk, 0 s"


def test_the_terminal_has_a_bar_and_a_pipe_no_control_sequence(
    quickly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda known=is_terminal: known)
        monkeypatch.setattr("sys.stderr", stream)
        with console.progress("measuring") as note:
            note("-O0", 1, 4)
            time.sleep(0.1)
        assert ("\x1b[" in stream.getvalue()) == is_terminal
        assert is_terminal or stream.getvalue().startswith("measuring: -O0, 1 of 4")


def test_short_work_says_nothing(tmp_path) -> None:
    ran = fusec("synth", "tiny", "-o", tmp_path / "m.gguf")
    assert (ran.code, ran.err) == (0, "")


def test_quiet(
    quickly: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object, note: Callable[..., None], **__: object) -> list[object]:
        note("-O0 f16")
        time.sleep(0.2)
        return []

    monkeypatch.setattr("fusec.verifier.check", slow)
    assert "verifying: -O0 f16, 0 s\n" in fusec("verify", tiny_model).err
    for option in ("-q", "--quiet"):
        ran = fusec("verify", tiny_model, option)
        assert (ran.code, ran.err) == (0, "")
    synth = ("synth", "tiny", "-o", tmp_path / "m.gguf")
    assert fusec(*synth).out.endswith("m.gguf: 0.5 MB\n")
    assert fusec(*synth, "-q").out == ""
    run = ("run", tiny_model, "--prompt-ids", "7", "-n", 2, "--temp", 0)
    assert "tok/s" in fusec(*run).err
    assert fusec(*run, "-q").err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_something_to_say_can_be_quiet(name: str) -> None:
    options = {option for param in command(name).params for option in param.opts}
    assert ("--quiet" in options) == (name != "list")


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_a_flag_in_every_command_that_reports(name: str) -> None:
    """What a command writes goes to `-o`: `--json demo` never takes the model for a file."""
    found = [param for param in command(name).params if "--json" in param.opts]
    assert [param.is_flag for param in found] == [True] * (
        name not in ("synth", "quantize", "pull")
    )
