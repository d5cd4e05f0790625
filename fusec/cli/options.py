"""Arguments and options that several commands share, with the help they print.

Those named Maybe are None unless given: a compiled folder has its own, and refuses another.
"""

from pathlib import Path
from typing import Annotated

import typer

NAMES = "demo (comes with fusec), smollm2, gemma3-270m, hf:OWNER/REPO"


def model_file(context: typer.Context, path: Path | None) -> Path | None:
    """The file of a model that may be given by its name, fetched if it is not here yet.

    Done before the command begins, whose own progress would be in the way. Folders are left alone.
    """
    from fusec.models.names import located

    if path is None or context.resilient_parsing or path.is_dir():
        return path
    return located(path)


MODEL = f"A GGUF model file, or a name: {NAMES}."
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL, callback=model_file)]
ModelOrDir = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL|DIR",
        help=f"A GGUF model file, a name ({NAMES}), or a folder from fusec compile -o.",
        callback=model_file,
    ),
]
LEVELS = "0 naive (a kernel per op), 1 paired, 2 fused, 3 deep, 4 clustered."
MaybeLevel = Annotated[
    int | None,
    typer.Option(
        "-O", "--level", metavar="LEVEL", help=f"{LEVELS} (default: 3 on a GPU, 2 on the CPU)"
    ),
]
Context = Annotated[
    int | None,
    typer.Option(help="Positions of the KV cache; up to what the model was trained for."),
]
Kv = Annotated[str, typer.Option(metavar="f16|f32", help="Element type of the KV cache.")]
MaybeKv = Annotated[
    str | None,
    typer.Option(metavar="f16|f32", help="Element type of the KV cache. (default: f16)"),
]
TARGETS = "cpu, native or cuda (the GPU of this machine), or a GPU architecture such as sm_90a."
Target = Annotated[str, typer.Option(help=TARGETS)]
MaybeTarget = Annotated[str | None, typer.Option(help=f"{TARGETS} (default: cpu)")]
Disable = Annotated[
    list[str] | None,
    typer.Option(metavar="PASS", help="Leave a merge or another pass out; may be repeated."),
]
Width = Annotated[
    int, typer.Option(metavar="ROWS", help="Show a step of so many rows, as prompts take them.")
]
MaybeLayers = Annotated[
    str | None,
    typer.Option(
        metavar="all|N|N-M,...",
        help="Layers to draw. (default: those that are alike once)",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one line, and nothing else.")]
Results = Annotated[
    Path | None,
    typer.Option("-o", metavar="FILE", help="Write the results there, as JSON, beside the table."),
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes the cores this process may use.")]
Draft = Annotated[
    str,
    typer.Option(
        metavar="off|auto|suffix|recycle|mtp|MODEL",
        help="Guess tokens and check several in one step, which changes no token.",
    ),
]
DraftMax = Annotated[int, typer.Option(metavar="K", help="Tokens that a step checks at most.")]


def _hush(context: typer.Context, quiet: bool) -> bool:
    """Standard error has errors alone until the command ends."""
    from fusec.cli.console import err

    err.quiet = quiet
    if quiet:
        from fusec.models.downloads import quietly

        context.with_resource(quietly())
    return quiet


Quiet = Annotated[
    bool,
    typer.Option(
        *("-q", "--quiet"),
        callback=_hush,
        is_eager=True,  # before a model is fetched
        help="Say nothing about downloads, progress, speed and files that were written.",
    ),
]
