"""`fusec diff`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import out, show_json, write
from fusec.cli.options import AsJson, Context, Quiet, model_file
from fusec.errors import FusecError
from fusec.files import check_outputs

Plan = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL|DIR",
        help="A GGUF file or a model's name, or a folder from fusec compile -o.",
        callback=model_file,
    ),
]


def diff(
    a: Plan,
    b: Plan,
    level: Annotated[
        str | None, typer.Option("-O", "--level", metavar="A,B", help="Levels, for GGUF files.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="A,B", help="Targets, for GGUF files. (default: cpu)")
    ] = None,
    context: Context = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that opens in any browser.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two plans: their sizes, and which dispatches became which."""
    from fusec import artifact, driver, pictures
    from fusec.pictures import diff as comparison

    check_outputs([html], a, b)
    levels, targets = _two("-O", level), _two("--target", target)
    subjects = []
    for path, level_of, target_of in zip((a, b), levels, targets, strict=True):
        if path.is_dir():
            saved = artifact.Artifact.open(path)
            saved.refuse(level=level_of, target=target_of, context=context)
            subjects.append(artifact.pictured(saved))
            continue
        if level_of is not None and not level_of.isdigit():
            raise FusecError(f"-O: expected levels like 1,2, found '{level}'")
        compiled = driver.compile(
            path,
            target="cpu" if target_of is None else target_of,
            level=None if level_of is None else int(level_of),
            context=context,
        )
        subjects.append(pictures.of_compiled(compiled))
    left, right = subjects
    if html is not None:
        command = " ".join(["fusec", *sys.argv[1:]])
        write(html, comparison.html(left, right, command))
    data = comparison.compare(left, right)
    if as_json:
        show_json(data)
        return
    for table in comparison.tables(data):
        out.print(table)


def _two(option: str, text: str | None) -> tuple[str | None, str | None]:
    """One value for both plans, or one for each."""
    if text is None:
        return None, None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2 or not all(parts):
        raise FusecError(f"{option}: expected one value or two like a,b, found '{text}'")
    return parts[0], parts[-1]
