"""`fusec roofline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusec.cli.bench import numbers
from fusec.cli.console import out, progress, show_json
from fusec.cli.options import AsJson, ModelArg, Quiet

TABLE_WIDTH = 150


def roofline(
    model: ModelArg,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="NAME", help="Only this GPU; may be repeated."),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            "-O", "--level", metavar="LEVEL,...", help="Levels to predict. (default: all)"
        ),
    ] = None,
    position: Annotated[int, typer.Option(help="Tokens in the KV cache.")] = 64,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Hold predictions against what bench or profile -o wrote."
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What GPUs could make of a model: floors, predicted tokens a second, and what binds."""
    from fusec import roofline as rooflines
    from fusec.passes.pipeline import LEVELS

    wanted = tuple(LEVELS) if levels is None else numbers("-O", levels)
    with progress("predicting") as advance:
        data = rooflines.run(model, gpu or (), wanted, position, measured or (), advance)
    if as_json:
        show_json(data)
        return
    wide = Console(file=out.file, width=max(out.width, TABLE_WIDTH))
    for table in rooflines.tables(data):
        wide.print(table)
    for line in rooflines.lines(data):
        out.print(line)
