"""What commands print with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
