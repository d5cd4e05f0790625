"""`--disable` in every command that compiles a model and runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusec import driver
from fusec.compiled import Options
from tests.command import fusec

pytestmark = pytest.mark.xdist_group("cli")

COMMANDS = {
    "run": ["run", "MODEL", "--prompt-ids", "1,2", "-n", "2", "--context", "32"],
    "bench": ["bench", "MODEL", "-n", "2", "--prompt", "2", "--pp", "0", "-O2", "--repeats", "1"],
    "verify": ["verify", "MODEL", "-O2", "--kv", "f32", "--tokens", "3", "--context", "32"],
    "perplexity": ["perplexity", "MODEL", "TEXT", "-c", "8"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_rules_reach_the_compiler(
    command: list[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little fox. " * 4)
    options_of, given = driver.options_of, []

    def spy(*args: Any, **options: Any) -> Options:
        given.append(options_of(*args, **options))
        return given[-1]

    monkeypatch.setattr(driver, "options_of", spy)
    places = {"MODEL": tiny_model, "TEXT": text}
    arguments = [places.get(word, word) for word in command]
    ran = fusec(*arguments, "--disable", "epilogue", "--disable", "chain")
    assert ran.code == 0, ran.err
    assert {options.disable for options in given} == {("epilogue", "chain")}
