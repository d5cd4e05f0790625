"""What commands print with, and how they write files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusec.errors import FusecError

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(title: str, total: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on standard error; silent where nobody looks.

    Yields `note(what)`, which counts one, or `note(what, done, total)`.
    """
    columns = (
        TextColumn(f"{title:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=total or None)

        def note(what: str = "", done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=what, advance=1 if done is None else None)
            if done is not None:
                bar.update(task, completed=done, total=total)

        yield note


def show_report(data: dict[str, Any]) -> None:
    """Stage table, plan table, refusals and the plan in one line."""
    from fusec import report

    out.print(report.stage_table(data["stages"]))
    out.print(report.plan_table(data))
    for line in report.refusal_lines(data["stages"]):
        out.print(line, style="dim")
    out.print(report.plan_line(data))


def check_writable(path: Path) -> None:
    """Raise FusecError, before long work, if a file cannot be written; nothing is left there."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(b"")
    except OSError as error:
        raise FusecError(f"{path}: cannot write here: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(text.encode())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FusecError(f"{path}: cannot write here: {error.strerror}") from None


def _temporary(path: Path) -> Path:
    if not path.name:
        raise FusecError(f"expected the name of a file, found '{path}'")
    return path.with_name(f".{path.name}.{os.getpid()}")
