"""`fusec pull`."""

from __future__ import annotations

from typing import Annotated

import typer

from fusec.cli.options import NAMES, Quiet


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"A model's name: {NAMES}.")],
    quiet: Quiet = False,
) -> None:
    """Fetch a model by its name, unless it is here already, and print its path.

    A model that is here is checked, and fetched again if it was damaged. hf:OWNER/REPO takes the
    file with Q4_K_M, hf:OWNER/REPO:QUANT another one, hf:OWNER/REPO/FILE.gguf that one.
    """
    from fusec.models import names

    typer.echo(names.pull(name))
