"""The public API has types: mypy --strict passes a script that uses it, and finds mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusec

HERE = Path(__file__).parent / "typed"
pytestmark = pytest.mark.xdist_group("mypy")


def checked(file: str) -> list[str]:
    """What mypy says of a script, as somebody who has installed fusec would run it."""
    root = Path(fusec.__file__).parents[1]
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--config-file="]
    cache = root / ".pytest_cache" / "mypy"
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", str(cache), str(HERE / file)],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip
    assert not ran.stderr
    return [line for line in ran.stdout.splitlines() if ": error: " in line]


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(fusec.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_a_script_that_is_right_passes() -> None:
    assert checked("good.py") == []


def test_every_mistake_is_found() -> None:
    lines = (HERE / "bad.py").read_text().splitlines()
    wanted = {i: line.split("  # ")[1] for i, line in enumerate(lines, 1) if "  # " in line}
    found = {int(re.findall(r":(\d+): error", line)[0]): line for line in checked("bad.py")}
    assert found.keys() == wanted.keys()
    for number, message in wanted.items():
        assert message in found[number]
