"""`fusec profile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusec.cli.console import err, out, progress, show_json, write, write_json
from fusec.cli.options import (
    AsJson,
    Context,
    Disable,
    DraftMax,
    Kv,
    MaybeLevel,
    ModelArg,
    Quiet,
    Results,
    Target,
    Threads,
)
from fusec.errors import FusecError
from fusec.files import check_outputs

TABLE_WIDTH = 130


def profile(
    model: ModelArg,
    tokens: Annotated[int, typer.Option("-n", help="New tokens of a generation.")] = 64,
    level: MaybeLevel = None,
    target: Target = "cpu",
    context: Context = None,
    kv: Kv = "f16",
    disable: Disable = None,
    threads: Threads = 0,
    output: Results = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE.svg|png", help="Draw the walls as bars.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one token's launches for Perfetto or Chrome."),
    ] = None,
    as_json: AsJson = False,
    draft: Annotated[
        str,
        typer.Option(
            metavar="auto|suffix|recycle|mtp|MODEL",
            help="Instead: a round of the loop with drafted tokens, by its parts.",
        ),
    ] = "",
    draft_max: DraftMax = 15,
    quiet: Quiet = False,
) -> None:
    """Where a token's time goes: between tokens, launches, memory, compute; launch by launch."""
    from fusec import drafters, driver, loop_times, walls
    from fusec.bench import profile as measuring
    from fusec.bench import rounds
    from fusec.models.model import Model

    if draft and (chart is not None or trace is not None):
        raise FusecError("--draft: its rounds are no launches of a token: no --chart, no --trace")
    if chart is not None:
        walls.check_chart(chart)
    check_outputs([output, trace, chart], model)  # before the long work, not after it
    opened = Model.open(model)
    outputs = drafters.draft_outputs(draft, opened) if draft else ()
    compiled = driver.compile(
        opened,
        target=target,
        level=level,
        context=context,
        kv=kv,
        disable=disable or (),
        outputs=outputs,
    )
    with progress("profiling") as advance:
        data = (
            rounds.run(compiled, draft, draft_max, tokens, threads, advance)
            if draft
            else measuring.run(compiled, tokens, threads, advance)
        )
    write_json(output, data)
    if trace is not None:
        write(trace, json.dumps(walls.trace(data, compiled.plan)) + "\n")
    if chart is not None:
        walls.draw(data, chart)
        err.print(f"written to {chart}", style="dim")
    if as_json:
        show_json(data)
        return
    wide = Console(file=out.file, width=max(out.width, TABLE_WIDTH))
    shown = loop_times if draft else walls
    for table in shown.tables(data):
        wide.print(table)
    out.print(shown.line(data))
