"""`fusec verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from fusec.cli.console import out, progress, show_json
from fusec.cli.options import AsJson, Context, Disable, ModelArg, Quiet, Target


def verify(
    model: ModelArg,
    level: Annotated[
        int | None,
        typer.Option("-O", "--level", help="Check this level against -O0 (default: all)."),
    ] = None,
    context: Context = None,
    kv: Annotated[
        str, typer.Option(metavar="f16|f32|both", help="KV cache types to check.")
    ] = "both",
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of the random prompt that the reference computes. (default: 24)"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random prompt.")] = 0,
    target: Target = "cpu",
    disable: Disable = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check logits: against the float64 reference; levels and chunks, byte for byte."""
    from fusec.verifier import check, verdict_table

    kinds = ("f16", "f32") if kv == "both" else (kv,)
    with progress("verifying") as advance:
        verdicts = check(
            model,
            level=level,
            context=context,
            kinds=kinds,
            tokens=tokens,
            seed=seed,
            target=target,
            disable=disable or (),
            note=advance,
        )
    if as_json:
        show_json([v.as_dict() for v in verdicts])
    else:
        out.print(verdict_table(str(model), verdicts))
    if not all(v.ok for v in verdicts):
        raise typer.Exit(1)
