"""`fusec inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import show_report, write_text
from fusec.cli.options import AsJson, Context, Disable, MaybeKv, MaybeLevel, MaybeTarget, ModelOrDir
from fusec.errors import FusecError


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
    disable: Disable = None,
    as_json: AsJson = False,
) -> None:
    """Look at the graph at a stage, or at the plan, without compiling kernels."""
    from fusec import artifact, driver, report
    from fusec.ir.dot import to_dot
    from fusec.ir.text import parse

    if model.is_dir():
        saved = artifact.Artifact.open(model)
        saved.refuse(level=level, context=context, kv=kv, target=target, disable=disable)
        data, shown = saved.manifest["report"], saved.stage(stage)
        graph = parse("".join(x for x in shown.splitlines(True) if not x.startswith("#")))
    else:
        compiled = driver.compile(
            model,
            target=target or "cpu",
            level=driver.DEFAULT_LEVEL if level is None else level,
            context=context,
            kv=kv or "f16",
            disable=disable or (),
        )
        data = report.summary(compiled)
        by_name = {s.name: s for s in compiled.stages}
        if stage is not None and stage not in by_name:
            there = f"at -O{compiled.plan.level}: there are {', '.join(by_name)}"
            raise FusecError(f"no stage '{stage}' {there}")
        found = by_name[stage] if stage else compiled.stages[-1]
        shown, graph = artifact.stage_text(found), found.graph
    if dot is not None:
        write_text(dot, to_dot(graph))
    if as_json:
        typer.echo(json.dumps(data))
    elif stage is not None:
        typer.echo(shown, nl=False)
    else:
        show_report(data)
