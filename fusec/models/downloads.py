"""What is said on standard error while a model is fetched: a bar, or lines without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

STEPS = 4  # lines that say how far it is, where there is no terminal


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Nothing is said of what is fetched until the end of this."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)


def is_quiet() -> bool:
    """Whether nothing is to be said."""
    return _quiet.get()


def _console() -> Console:
    return Console(
        stderr=True, quiet=is_quiet(), soft_wrap=True, highlight=False, markup=False, emoji=False
    )


def announce(line: str) -> None:
    """Say what will be done, before the wait."""
    _console().print(line)


@contextmanager
def bar(title: str, total: int, notice: str) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many of `total` bytes are here.

    `notice` is said with the first of them, so never of a download that does not begin.
    """
    console = _console()
    if not console.is_terminal:
        yield _in_lines(console, title, total, notice)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as progress:
        task = progress.add_task(title, total=total)

        def show(here: int) -> None:
            if here and not progress.tasks[0].completed:
                console.print(notice)
            progress.update(task, completed=here)

        yield show


def _in_lines(console: Console, title: str, total: int, notice: str) -> Callable[[int], None]:
    said = -1

    def show(here: int) -> None:
        nonlocal said
        if here and said < 0:
            said = 0
            console.print(notice)
        if (step := here * STEPS // total) > said >= 0:
            said = step
            console.print(f"{title}: {here / 1e6:.0f} of {total / 1e6:.0f} MB")

    return show
