"""What commands print with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from fusec.cli import streams
from fusec.files import write_whole

EVERY = 5.0  # seconds between two lines about work that goes on
STILL = 60.0  # seconds until a line about work that is where it was

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

Note = Callable[..., None]
"""`note(what)`, which counts one, or `note(what, done, total)`."""


def progress(title: str, total: int = 0) -> AbstractContextManager[Note]:
    """Say on standard error what is being done: a bar on a terminal, else a line now and then.

    Work of a few seconds says nothing in a pipe or a file, and none does after --quiet.
    """
    return _bar(title, total) if err.is_terminal else _lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Note]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(f"{title:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=err, transient=True, disable=err.quiet) as bar:
        task = bar.add_task("", total=total or None)

        def note(what: str = "", done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=what, advance=1 if done is None else None)
            if done is not None:
                bar.update(task, completed=done, total=total)

        yield note


@contextmanager
def _lines(title: str, total: int) -> Iterator[Note]:
    """Lines from a thread of their own, so that a long step says that it goes on."""
    start = time.monotonic()
    finished = threading.Event()
    state = ("", 0, total)

    def note(what: str = "", done: int | None = None, total: int | None = None) -> None:
        nonlocal state
        state = (what, state[1] + 1 if done is None else done, total or state[2])

    def tell() -> None:
        told, when = None, start
        while not finished.wait(EVERY):
            now, shown = time.monotonic(), state
            if shown != told or now - when >= STILL:
                streams.complain(_line(title, *shown, now - start))
                told, when = shown, now

    if err.quiet:
        yield note
        return
    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield note
    finally:
        finished.set()
        teller.join()


def _line(title: str, what: str, done: int, total: int, seconds: float) -> str:
    """`measuring: -O0 auto, 1 of 4, 12 s`."""
    count = f"{done} of {total}" if total else ""
    return f"{title}: {', '.join(filter(None, (what, count, f'{seconds:.0f} s')))}"


def write(path: Path, text: str) -> None:
    """Write a file that was asked for, and say so on standard error, unless --quiet was given."""
    write_whole(path, text)
    err.print(f"written to {path}", style="dim")


def show_json(data: object) -> None:
    """Print one line of JSON, for --json."""
    print(json.dumps(data))


def write_json(path: Path | None, data: object) -> None:
    """Write results to the file of `-o`, if it was given; see `write`."""
    if path is not None:
        write(path, json.dumps(data, indent=1) + "\n")


def show_report(data: dict[str, Any]) -> None:
    """Stage table, plan table, refusals and the plan in one line."""
    from fusec import report

    out.print(report.stage_table(data["stages"]))
    out.print(report.plan_table(data))
    for line in report.refusal_lines(data["stages"]):
        out.print(line, style="dim")
    out.print(report.plan_line(data))
