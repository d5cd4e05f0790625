"""`fusec inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import show_report, write_text
from fusec.cli.options import AsJson, Context, Disable, MaybeKv, MaybeLevel, MaybeTarget, ModelOrDir


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
    layer: Annotated[int | None, typer.Option(metavar="N", help="Draw this layer alone.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Draw every layer, also those that are alike.")
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Show the times that fusec profile --json measured."),
    ] = None,
    disable: Disable = None,
    as_json: AsJson = False,
) -> None:
    """Look at the graph at a stage, or at the plan, without compiling kernels."""
    from fusec import artifact, driver, pictures
    from fusec.ir.dot import to_dot
    from fusec.ir.view import one_layer

    if model.is_dir():
        saved = artifact.Artifact.open(model)
        saved.refuse(level=level, context=context, kv=kv, target=target, disable=disable)
        subject = pictures.of_folder(saved, profile)
    else:
        compiled = driver.compile(
            model,
            target=target or "cpu",
            level=driver.DEFAULT_LEVEL if level is None else level,
            context=context,
            kv=kv or "f16",
            disable=disable or (),
        )
        subject = pictures.of_compiled(compiled, profile)
    found = subject.stage(stage)
    if dot is not None:
        write_text(dot, to_dot(found.graph if layer is None else one_layer(found.graph, layer)))
    if svg is not None:
        write_text(svg, subject.svg(stage, layer=layer, every=every))
    if html is not None:
        command = " ".join(["fusec", *sys.argv[1:]])
        write_text(html, pictures.html(subject, command, layer=layer, every=every))
    if as_json:
        typer.echo(json.dumps(subject.report))
    elif stage is not None:
        typer.echo(artifact.stage_text(found), nl=False)
    else:
        show_report(subject.report)
