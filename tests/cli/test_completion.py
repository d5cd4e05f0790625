"""Completion in the shell: what the scripts ask, and how people get them."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import shellingham

from fusec.cli.completion import Shell
from tests.command import fusec, process, refused

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("fusec ro", ["roofline"]),
        ("fusec run --chat --rep", ["--repeat-penalty"]),
        ("fusec list f", ["formats"]),
        ("fusec --show-completion z", ["zsh"]),
    ],
)
def test_a_script_s_question_is_answered(words: str, wanted: list[str]) -> None:
    last = str(len(words.split()) - 1)
    asking = process(_FUSEC_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=last)
    out, err = asking.communicate(timeout=60)
    assert (out.split(), err) == (wanted, "")


def called_by(shell: str | None) -> mock._patch[mock.Mock]:
    """This process as a shell's child, or nobody's."""
    error = shellingham.ShellDetectionFailure if shell is None else None
    return mock.patch.object(
        shellingham, "detect_shell", side_effect=error, return_value=(shell, f"/bin/{shell}")
    )


@pytest.mark.parametrize("shell", [each.value for each in Shell])
def test_a_named_shell_s_script_is_printed_whoever_calls(shell: str) -> None:
    with called_by(None):
        named = fusec("--show-completion", shell)
    assert (named.code, named.err) == (0, "")
    assert "_FUSEC_COMPLETE" in named.out
    with called_by(shell):
        assert fusec("--show-completion") == named


def test_an_unnamed_shell_that_is_not_found_is_asked_for() -> None:
    with called_by(None):
        assert refused("--show-completion") == (
            "--show-completion: found no shell that called: expected its name, as in "
            "--show-completion bash"
        )
        assert refused("--install-completion").startswith("--install-completion: found no shell")
    with called_by("csh"):
        assert "'csh' is not one of 'bash', 'zsh'" in refused("--show-completion")


def test_it_is_installed_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with called_by(None):
        ran = fusec("--install-completion", "fish")
        script = fusec("--show-completion", "fish").out
    path = tmp_path / ".config" / "fish" / "completions" / "fusec.fish"
    assert ran.out == f"written to {path}: new fish terminals complete fusec's commands\n"
    assert path.read_text() == script
