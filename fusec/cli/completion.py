"""Completion in the shell: typer's scripts, for a shell that is named or the one that called.

Typer's own options of these names take no shell: they look for the process that called, and find
none under cron, or once the shell that called has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import typer
from typer import completion

from fusec.errors import FusecError

SHOW, INSTALL = "--show-completion", "--install-completion"
NAMES = {"prog_name": "fusec", "complete_var": "_FUSEC_COMPLETE"}
"""The command that is completed, and the variable by which the script asks it for words."""


class Shell(str, Enum):
    """The shells that typer has a script for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"
    powershell = "powershell"
    pwsh = "pwsh"


def with_shell(args: Sequence[str]) -> list[str]:
    """The arguments of `fusec`, with the shell that called where an option of these names none.

    Raises FusecError where no process that called is a shell.
    """
    if len(args) != 1 or args[0] not in (SHOW, INSTALL):
        return list(args)
    import shellingham

    try:
        name, _ = shellingham.detect_shell()
    except (shellingham.ShellDetectionFailure, NotImplementedError):
        raise FusecError(
            f"{args[0]}: found no shell that called: expected its name, as in {args[0]} bash"
        ) from None
    return [args[0], name]


def answer_scripts() -> None:
    """Have typer answer the scripts, which call `fusec` with the variable set."""
    completion.completion_init()  # type: ignore[attr-defined]


def show(shell: Shell | None) -> None:
    """Print the shell's script, and end."""
    if shell is not None:
        typer.echo(completion.get_completion_script(**NAMES, shell=shell.value))  # type: ignore[attr-defined]
        raise typer.Exit


def install(shell: Shell | None) -> None:
    """Write the shell's script where the shell looks for it, say where that is, and end."""
    if shell is not None:
        _, path = completion.install(**NAMES, shell=shell.value)  # type: ignore[attr-defined]
        typer.echo(f"written to {path}: new {shell.value} terminals complete fusec's commands")
        raise typer.Exit
