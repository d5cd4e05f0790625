"""`fusec quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusec.cli.console import out, progress
from fusec.cli.options import ModelArg, Quiet

if TYPE_CHECKING:
    from fusec.models.quant_bytes import Search


def quantize(
    source: ModelArg,
    output: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write.")],
    mix: Annotated[
        str,
        typer.Argument(metavar="TYPE", help="Weight mix as llama-quantize names it: Q4_K_M, ..."),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the time, slightly less accurate.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Accept a model that is quantised already; F32 needs no asking."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a copy of a model with its matrices quantised, by llama.cpp's rules for the mix."""
    from fusec.models.gguf_file import open_gguf
    from fusec.models.requantize import requantize

    with progress("quantizing") as advance:
        search: Search = "quick" if quick else "full"
        requantize(source, output, mix, search=search, again=again, progress=advance)
    before, after = open_gguf(source).file_bytes / 1e6, output.stat().st_size / 1e6
    if not quiet:
        out.print(f"{output}: {after:.1f} MB, from {before:.1f} MB")
