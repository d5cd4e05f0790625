"""Pages of the documentation, whose code tests run and hold against what the compiler makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def page(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text()


def blocks(text: str, language: str = "python") -> list[str]:
    """The fenced blocks of a language, in order; '' for those that say none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for kind, body in fences if kind == language]


def run(name: str) -> dict[str, Any]:
    """The names that a page's Python blocks define when they run one after the other."""
    names: dict[str, Any] = {}
    for block in blocks(page(name)):
        exec(compile(block, name, "exec"), names)
    return names
