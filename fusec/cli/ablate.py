"""`fusec ablate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from fusec.cli.bench import TABLE_WIDTH, words
from fusec.cli.console import out, progress
from fusec.cli.options import AsJson, Context, Kv, MaybeLevel, ModelArg, Quiet, Target, Threads


def ablate(
    model: ModelArg,
    target: Target = "cpu",
    level: MaybeLevel = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--rules",
            metavar="NAME,...|rules|passes",
            help="Leave out these, one at a time, instead of all that the level runs: names, rules "
            "(all that merge) or passes (all that do not).",
        ),
    ] = None,
    context: Context = None,
    kv: Kv = "f16",
    tokens: Annotated[
        int | None,
        typer.Option("-n", help="New tokens of one measurement. (default: as many as take 0.1 s)"),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Turns that each row is measured for.")] = 5,
    threads: Threads = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What each rule and pass is worth: dispatches, time and logits of a model without it."""
    from fusec import ablation

    with progress("ablating") as advance:
        rows = ablation.ablate(
            model,
            target,
            level,
            context,
            kv,
            only=None if only is None else words(only),
            threads=threads,
            tokens=tokens,
            repeats=repeats,
            note=advance,
        )
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows]))
        return
    wide = Console(file=out.file, width=max(out.width, TABLE_WIDTH))
    wide.print(ablation.table(model.stem, rows, target))
