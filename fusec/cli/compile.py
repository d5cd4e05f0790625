"""`fusec compile`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import out, progress, show_json, show_report, write
from fusec.cli.options import (
    AsJson,
    Context,
    Disable,
    Kv,
    MaybeLayers,
    MaybeLevel,
    ModelArg,
    Quiet,
    Target,
    Width,
)
from fusec.errors import FusecError
from fusec.files import check_outputs


def compile_command(
    model: ModelArg,
    output: Annotated[
        Path | None,
        typer.Option("-o", metavar="DIR", help="Write plan, kernels, stages and DOT here."),
    ] = None,
    target: Target = "cpu",
    level: MaybeLevel = None,
    context: Context = None,
    kv: Kv = "f16",
    dot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan as graphviz DOT.")
    ] = None,
    layers: MaybeLayers = None,
    dump_after: Annotated[
        str | None, typer.Option(metavar="PASS|all", help="Print the graph after this pass.")
    ] = None,
    stop_after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Run no pass after this one.")
    ] = None,
    disable: Disable = None,
    width: Width = 1,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compile a model: print what each pass merged, and the plan; build every kernel."""
    from fusec import artifact, driver, report
    from fusec.passes.pipeline import find_pass
    from fusec.pictures.dot import to_dot
    from fusec.pictures.view import read_layers

    start = time.perf_counter()
    drawn = read_layers(layers)
    if drawn is not None and dot is None:
        raise FusecError("--layers: nothing is drawn: add --dot FILE")
    if as_json and dump_after is not None:
        raise FusecError("--json: expected no --dump-after beside it, which prints graphs")
    check_outputs([dot], model)
    if output is not None:  # before the long work, not after it
        artifact.check_target(output)
        if width != 1:
            raise FusecError(
                "-o: a compiled folder has the plans for every width: leave --width out"
            )
    compiled = driver.compile(
        model,
        target=target,
        level=level,
        context=context,
        kv=kv,
        disable=disable or (),
        stop_after=stop_after,
        width=width,
    )
    names = [stage.name for stage in compiled.stages]
    if dump_after not in (None, "all"):
        dump_after = find_pass(dump_after, names, "no pass", " at this level: it runs")
    for stage in compiled.stages:
        if dump_after in ("all", stage.name):
            typer.echo(artifact.stage_text(stage))
    if dot is not None:
        write(dot, to_dot(compiled.graph, compiled.plan.launches, layers=drawn))
    with progress("compiling", len(compiled.kernels)) as advance:
        built = compiled.build(advance)
    if output is not None:
        compiled.save(output)
    data = report.summary(compiled)
    if as_json:
        show_json(data)
        return
    show_report(data)
    if built:
        out.print(report.code_table(compiled.backend.describe(compiled.kernels, built)))
    seconds = time.perf_counter() - start
    out.print(f"{len(compiled.kernels)} kernels ready in {seconds:.1f} s")
    if output is not None:
        out.print(f"written to {output}: run it with  fusec run {output}")
