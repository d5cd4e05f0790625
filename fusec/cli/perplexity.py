"""`fusec perplexity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import out, progress, show_json
from fusec.cli.options import (
    AsJson,
    Disable,
    Kv,
    MaybeLevel,
    ModelArg,
    Quiet,
    Target,
    Threads,
    model_file,
)


def perplexity(
    model: ModelArg,
    text: Annotated[Path, typer.Argument(metavar="TEXT", help="A UTF-8 text file.")],
    context: Annotated[
        int | None,
        typer.Option(
            "-c", "--ctx", "--context", help="Tokens of a chunk. (default: 512, or fewer)"
        ),
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(help="Read that many chunks of the text. (default: all)")
    ] = None,
    special: Annotated[
        bool,
        typer.Option(
            "--special", help="Take control tokens written in the text, as <|endoftext|>, for such."
        ),
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Also say how far the predictions are from this model's.",
            callback=model_file,
        ),
    ] = None,
    target: Target = "cpu",
    level: MaybeLevel = None,
    kv: Kv = "f16",
    threads: Threads = 0,
    disable: Disable = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well a model predicts a text: llama.cpp's perplexity, lower is better."""
    from fusec.perplexity import measure
    from fusec.texts import read_text
    from fusec.writer import count

    given = read_text(text)
    with progress("reading") as advance:
        found = measure(
            model,
            given,
            base=base,
            context=context,
            chunks=chunks,
            special=special,
            target=target,
            level=level,
            kv=kv,
            threads=threads,
            disable=disable or (),
            note=advance,
        )
    if as_json:
        show_json(found.as_dict())
    else:
        out.print(
            f"perplexity {found.value:.4f} +/- {found.error:.5f} over {found.scored} tokens: "
            f"{count(found.chunks, 'chunk')} of {found.context}, {found.seconds:.1f} s"
        )
        if found.divergence is not None:
            out.print(
                f"against {base}: divergence {found.divergence:.3g} +/- "
                f"{found.divergence_error:.2g} nats, same likeliest token {found.same_top:.2%}"
            )
