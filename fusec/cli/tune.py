"""`fusec tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusec.cli.bench import numbers
from fusec.cli.console import err, out, progress, show_json, write_json
from fusec.cli.options import AsJson, Context, Kv, MaybeLevel, ModelArg, Quiet, Results
from fusec.errors import FusecError
from fusec.files import check_outputs

TABLE_WIDTH = 150


def tune(
    model: ModelArg,
    level: MaybeLevel = None,
    context: Context = None,
    kv: Kv = "f16",
    width: Annotated[
        str, typer.Option(metavar="ROWS,...", help="Tune steps of so many rows: 1, 2, 4, ...")
    ] = "1",
    seconds: Annotated[
        float, typer.Option(help="Stop searching after about this long, all widths together.")
    ] = 60.0,
    output: Results = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on with the searches that an earlier -o wrote."),
    ] = None,
    build_only: Annotated[
        bool, typer.Option("--build-only", help="Compile the candidates into the cache, no more.")
    ] = False,
    target: Annotated[
        str, typer.Option(help="With --build-only: an architecture such as sm_90a.")
    ] = "native",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Choose the shapes of a GPU's kernels by measuring: every later --target native uses them.

    FUSEC_TUNING=off leaves them out, FUSEC_TUNING=FILE takes them from a file of -o.
    """
    from fusec import backends
    from fusec.bench import tune as measuring
    from fusec.bench import tune_report as report
    from fusec.codegen.cuda.arch import ASKED

    if not seconds > 0:
        raise FusecError(f"--seconds: expected a number above 0, found {seconds:g}")
    widths = tuple(dict.fromkeys(numbers("--width", width)))
    if target not in backends.NATIVE and not build_only:
        raise FusecError(
            "tuning measures on the GPU of this machine: leave out --target, or add --build-only"
        )
    try:
        backends.get(target)
    except FusecError as error:
        if target not in backends.NATIVE:
            raise
        reason = str(error).partition(";")[0].removeprefix(ASKED)
        raise FusecError(
            f"tuning measures on the GPU of this machine: {reason}; --build-only --target sm_90a "
            f"compiles what another machine will measure"
        ) from None
    check_outputs([output], model)  # before the long work, not after it
    compiled = measuring.prepare(model, target, level, context, kv)
    for rows in widths:
        measuring.plan_of(compiled, rows)
    if build_only:
        with progress("compiling") as advance:
            ready, kernels = measuring.build(compiled, widths, advance)
        if as_json:
            show_json({"variants": ready, "kernels": kernels})
            return
        out.print(f"{ready} variants of {kernels} kernels are ready")
        return
    before = report.read(resume, compiled, widths) if resume is not None else {}
    with progress("tuning") as advance:
        gpu, tuned = measuring.run(compiled, widths, seconds, before, advance)
    data = report.as_data(compiled, gpu, tuned)
    write_json(output, data)
    path = report.save(compiled, gpu, tuned)
    err.print(f"written to {path}", style="dim")
    if as_json:
        show_json(data)
        return
    wide = Console(file=out.file, width=max(out.width, TABLE_WIDTH))
    for table in report.tables(data):
        wide.print(table)
    for line in report.lines(data):
        out.print(line)
