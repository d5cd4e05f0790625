"""`fusec ablate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fusec.cli.bench import TABLE_WIDTH, words
from fusec.cli.console import out, progress, show_json, write_json
from fusec.cli.options import (
    AsJson,
    Context,
    Kv,
    MaybeLevel,
    ModelArg,
    Quiet,
    Results,
    Target,
    Threads,
)
from fusec.files import check_outputs

if TYPE_CHECKING:
    from fusec.ablation import Ablation


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
    output: Results = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What each rule and pass is worth: dispatches, time and logits of a model without it."""
    from fusec import ablation

    check_outputs([output], model)  # before the long work, not after it
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
    data = [row.as_dict() for row in rows]
    write_json(output, data)
    if as_json:
        show_json(data)
        return
    wide = Console(file=out.file, width=max(out.width, TABLE_WIDTH))
    wide.print(table(model.stem, rows, target))


def table(title: str, rows: Sequence[Ablation], target: str) -> Table:
    """The rows for people, with what their numbers are."""
    from fusec import backends
    from fusec.ablation import AGREE
    from fusec.report import make_table

    made = make_table(title)
    is_measured = rows[0].measured
    made.add_column("left out", no_wrap=True)
    for head in ("hits", "dispatches", "us/token" if is_measured else "predicted us", "ratio"):
        made.add_column(head, justify="right")
    if is_measured:
        made.add_column("largest difference", justify="right")
        made.add_column("bytes")
    for row in rows:
        made.add_row(*row.cells())
    made.caption_justify, gpu = "left", backends.get(target).limits.gpu
    notes = [
        "hits: matches in a token's step of the whole pipeline.",
        "=: the same is launched without it; where there are hits, another rule merges the same.",
    ]
    if is_measured:
        notes += [
            "ratio: time over the whole pipeline's, the median of turns over the run, ± half their "
            "range.",
            f"?: not all turns agree on which is faster, or there are fewer than {AGREE}: the "
            "effect may be this machine's noise (--repeats measures more).",
        ]
    elif gpu is not None:
        notes.append(f"predicted by the cost model for {gpu.name}, which is not in this machine")
    made.caption = "\n".join(notes)
    return made
