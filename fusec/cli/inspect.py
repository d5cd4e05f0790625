"""`fusec inspect`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import show_json, show_report, write
from fusec.cli.options import (
    AsJson,
    Context,
    Disable,
    MaybeKv,
    MaybeLayers,
    MaybeLevel,
    MaybeTarget,
    ModelOrDir,
    Quiet,
    Width,
)
from fusec.errors import FusecError
from fusec.files import check_outputs


def inspect(
    model: ModelOrDir,
    level: MaybeLevel = None,
    context: Context = None,
    kv: MaybeKv = None,
    target: MaybeTarget = None,
    stage: Annotated[
        str | None, typer.Option(metavar="PASS", help="Print the graph after this pass.")
    ] = None,
    dot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write DOT, of the plan or of --stage.")
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture, of the plan or of --stage."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report that opens in any browser.")
    ] = None,
    layers: MaybeLayers = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Show the times that fusec profile -o measured."),
    ] = None,
    disable: Disable = None,
    width: Width = 1,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at the graph at a stage, or at the plan, without compiling kernels."""
    from fusec import artifact, driver, pictures, report
    from fusec.ir.text import parse
    from fusec.pictures.dot import to_dot
    from fusec.pictures.view import read_layers

    drawn = read_layers(layers)
    if drawn is not None and dot is None and svg is None and html is None:
        raise FusecError("--layers: what to draw with --dot, --svg or --html FILE")
    if profile is not None and svg is None and html is None:
        raise FusecError("--profile: its times are shown by --svg FILE and --html FILE")
    check_outputs([dot, svg, html], model, profile)
    picture: Callable[[], pictures.Subject]
    if model.is_dir():
        saved = artifact.Artifact.open(model)
        rows = width if width != 1 else None
        saved.refuse(
            level=level, context=context, kv=kv, target=target, disable=disable, width=rows
        )
        data, shown = saved.manifest["report"], saved.stage(stage)
        graph = parse("".join(x for x in shown.splitlines(True) if not x.startswith("#")))
        launches = saved.plan().launches if dot is not None else ()
        picture = partial(artifact.pictured, saved, profile)
    else:
        compiled = driver.compile(
            model,
            target="cpu" if target is None else target,
            level=level,
            context=context,
            kv=kv or "f16",
            disable=disable or (),
            width=width,
        )
        data = report.summary(compiled)
        found = pictures.find_stage(compiled.stages, stage, compiled.plan.level)
        shown, graph = artifact.stage_text(found), found.graph
        launches = compiled.plan.launches
        picture = partial(pictures.of_compiled, compiled, profile)
    if dot is not None:
        write(dot, to_dot(graph, launches if stage is None else (), layers=drawn))
    if svg is not None or html is not None:
        subject = picture()
        if svg is not None:
            write(svg, subject.svg(stage, layers=drawn))
        if html is not None:
            command = " ".join(["fusec", *sys.argv[1:]])
            write(html, pictures.html(subject, command, layers=drawn))
    if as_json:
        show_json(data)
    elif stage is not None:
        typer.echo(shown, nl=False)
    else:
        show_report(data)
