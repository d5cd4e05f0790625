"""`fusec inspect`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusec.cli.console import show_json, show_report, write
from fusec.cli.options import (
    AsJson,
    Context,
    Disable,
    DraftMax,
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

if TYPE_CHECKING:
    from fusec.ir.graph import Graph
    from fusec.ir.plan import Launch
    from fusec.pictures.view import Layers


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
    draft: Annotated[
        str,
        typer.Option(
            metavar="auto|suffix|recycle|mtp|MODEL",
            help="Draw the loop with drafted tokens: --dot and --svg have it instead of the plan, "
            "--html beside it.",
        ),
    ] = "",
    draft_max: DraftMax = 15,
    disable: Disable = None,
    width: Width = 1,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look at the graph at a stage, or at the plan, without compiling kernels."""
    from fusec import artifact, drafters, driver, pictures, report
    from fusec.ir.text import parse
    from fusec.models.model import Model
    from fusec.pictures.view import read_layers

    drawn = read_layers(layers)
    _check(
        any_drawn=any(file is not None for file in (dot, svg, html)),
        timed=svg is not None or html is not None,
        layers=drawn,
        profile=profile,
        draft=draft,
        one_plan=stage is None and width == 1,
    )
    check_outputs([dot, svg, html], model, profile)
    picture: Callable[[Path | None], pictures.Subject]
    opened: Callable[[], Model]
    if model.is_dir():
        saved = artifact.Artifact.open(model)
        rows = width if width != 1 else None
        saved.refuse(
            level=level, context=context, kv=kv, target=target, disable=disable, width=rows
        )
        data, shown = saved.manifest["report"], saved.stage(stage)
        graph = parse("".join(x for x in shown.splitlines(True) if not x.startswith("#")))
        launches = saved.plan().launches if dot is not None else ()
        plans, opened = (saved.plans() if draft else None), saved.model
        picture = partial(artifact.pictured, saved)
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
        plans, opened = (compiled.plans if draft else None), partial(Model.open, model)
        picture = partial(pictures.of_compiled, compiled)
    loop = None
    if draft:
        drafters.check_draft_max(draft_max)
        name = drafters.drafter_name(draft, opened)
        loop, profile = pictures.loop_of(opened(), plans, name, draft_max, profile)
    if dot is not None:
        write(dot, loop.dot() if loop else _plan_dot(graph, () if stage else launches, drawn))
    subject = cache(partial(picture, profile))  # of what is drawn, once
    if svg is not None:
        write(svg, loop.svg() if loop else subject().svg(stage, layers=drawn))
    if html is not None:
        command = " ".join(["fusec", *sys.argv[1:]])
        write(html, pictures.html(replace(subject(), loop=loop), command, layers=drawn))
    if as_json and stage is not None:
        by_pass = {each["pass"]: each for each in data["stages"]}
        show_json(by_pass[stage] | {"graph": str(graph)})
    elif as_json:
        show_json(data)
    elif stage is not None:
        typer.echo(shown, nl=False)
    else:
        show_report(data)


def _check(
    *,
    any_drawn: bool,
    timed: bool,
    layers: object,
    profile: Path | None,
    draft: str,
    one_plan: bool,
) -> None:
    """Raise FusecError for what says how to draw where nothing is drawn, or what cannot be."""
    if layers is not None and not any_drawn:
        raise FusecError("--layers: nothing is drawn: add --dot, --svg or --html FILE")
    if profile is not None and not timed:
        raise FusecError("--profile: its times are shown by --svg FILE and --html FILE")
    if draft and not any_drawn:
        raise FusecError("--draft: nothing is drawn: add --dot, --svg or --html FILE")
    if draft and not one_plan:
        raise FusecError("--draft: the loop has no --stage and no --width")


def _plan_dot(graph: Graph, launches: Iterable[Launch], layers: Layers) -> str:
    from fusec.pictures.dot import to_dot

    return to_dot(graph, launches, layers=layers)
