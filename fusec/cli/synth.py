"""`fusec synth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import out, progress
from fusec.cli.options import Quiet


def synth(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET",
            help="A shape of `fusec list presets`, or an architecture, for a small model of it.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", metavar="FILE", help="The GGUF file to write.")],
    quant: Annotated[
        str,
        typer.Option(help="Weight mix as llama-quantize names it: Q4_K_M, IQ3_M, Q8_0, F16, ..."),
    ] = "IQ4_XS",
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="tokenizer.json or a GGUF with a vocabulary."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Replaces the length the model says it was trained for.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Draw large matrices from few blocks: takes seconds.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a model of a real shape with random weights, for tests and measurements."""
    from fusec.models.synth import synthesize

    with progress("writing") as advance:
        synthesize(
            preset,
            output,
            quant=quant,
            seed=seed,
            tokenizer=tokenizer,
            context=context,
            quick=quick,
            progress=advance,
        )
    if not quiet:
        out.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
