"""Running the command line in this process: fast, and with everything it printed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any
from unittest import mock

from fusec import cli


@dataclass(frozen=True)
class Ran:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def fusec(*args: object, stdin: str | bytes = "") -> Ran:
    """`fusec ARGS`, as the installed command would run it; bytes as where the locale is ASCII."""
    out, err = io.StringIO(), io.StringIO()
    given: io.TextIOBase
    if isinstance(stdin, str):
        given = io.StringIO(stdin)
    else:
        given = io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii")
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", given),
    ):
        try:
            cli.main([str(a) for a in args])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Ran(code, out.getvalue(), err.getvalue())


def refused(*args: object, stdin: str | bytes = "") -> str:
    """The one line of a command that is refused, without its `error: `."""
    ran = fusec(*args, stdin=stdin)
    assert ran.code == 2, f"exit code {ran.code}: {ran.out}{ran.err}"
    assert ran.out == ""
    assert ran.err.startswith("error: "), ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.endswith("\n")
    assert "Traceback" not in ran.err
    return ran.err.removeprefix("error: ").rstrip("\n")


def process(*args: object, **env: str) -> subprocess.Popen[str]:
    """`fusec ARGS` in a process of its own, with these variables beside those of the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "fusec", *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def plain(text: str) -> str:
    """Text without the padding of tables."""
    return re.sub(r"[ \t]+", " ", text)
