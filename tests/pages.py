"""Pages of the documentation, whose code tests run and hold against what the compiler makes."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import command

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """Code on a page, and what the page says it prints; None where it does not say."""

    code: str
    shown: str | None
    line: int  # of the file, where the code begins
    language: str = "python"


def page(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "python") -> list[str]:
    """The fenced blocks of a language, in order; '' for those that say none."""
    return [body for kind, body in FENCE.findall(text) if kind == language]


def examples(text: str) -> Iterator[Example]:
    """Python blocks, with the block of no language right behind; and every `$ fusec` command."""
    fences = list(FENCE.finditer(text))
    for fence, behind in zip(fences, [*fences[1:], None], strict=True):
        line = text.count("\n", 0, fence.start(2)) + 1
        if fence[1] == "python":
            follows = behind and not behind[1] and not text[fence.end() : behind.start()].strip()
            yield Example(fence[2], behind[2] if behind and follows else None, line)
        elif fence[1] == "console":
            for part in re.split(r"^\$ ", fence[2], flags=re.MULTILINE)[1:]:
                given, _, shown = part.partition("\n")
                yield Example(given, shown or None, line, "console")


def run(name: str, whole: bool = False) -> dict[str, Any]:
    """The names that a page's Python blocks define when they run one after the other.

    What they print is compared with what the page shows, in which `...` stands for anything.
    `whole`: the page's `fusec` commands run too, and whatever its Python prints has to be shown.
    """
    names: dict[str, Any] = {}
    for example in examples(page(name)):
        if example.language == "python":
            printed = _python(example, name, names)
        elif whole:
            printed = _command(example.code)
        else:
            continue
        sys.stdout.write(printed)
        if example.shown is not None:
            compare(example.shown, printed, f"{name}:{example.line}")
        elif whole and example.language == "python":
            compare("", printed, f"{name}:{example.line}")
    return names


def compare(shown: str, printed: str, where: str) -> None:
    """Fail unless this was printed; `...` in `shown` stands for anything, as in a doctest."""
    wanted, found = (
        "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())
        for text in (shown, printed)
    )
    same = doctest.OutputChecker().check_output(wanted, found, doctest.ELLIPSIS)
    assert same, f"{where} shows\n{wanted}but what is printed is\n{found}"


def _python(example: Example, name: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    padding = "\n" * (example.line - 1)  # a traceback names the page's line
    with contextlib.redirect_stdout(out):
        exec(compile(padding + example.code, str(ROOT / name), "exec"), names)
    return out.getvalue()


def _command(line: str) -> str:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "fusec", line
    ran = command.fusec(*arguments)
    assert ran.code == 0, f"{line}\n{ran.err}"
    return ran.out
