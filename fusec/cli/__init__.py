"""The command line: one module a command, and what turns errors into exit codes.

A command's module is imported when the command is called (see `fusec.cli.commands`). It imports
inside its function what is slow to import.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from fusec.cli import completion, streams
from fusec.cli.commands import SETTINGS, Commands
from fusec.errors import FusecError, reason
from fusec.version import __version__

YOUNG = 100_000
"""New objects between two collections. Passes make graphs that stay: with Python's 700 or 2,000 a
quarter of their time went into looking for garbage in them."""

NUMBERS = {"int_parsing": "a whole number", "float_parsing": "a number"}
"""What was wanted, by pydantic's name of the fault."""

app = typer.Typer(name="fusec", cls=Commands, add_completion=False, **SETTINGS)
completion.answer_scripts()


@app.callback(invoke_without_command=True)
def fusec(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("-V", "--version", help="Print the version and exit.")
    ] = False,
    install_completion: Annotated[
        completion.Shell | None,
        typer.Option(
            completion.INSTALL,
            metavar="[SHELL]",
            callback=completion.install,
            is_eager=True,
            help="Have the shell complete commands and options: bash, zsh, fish, powershell or "
            "pwsh; the one that calls, unless named.",
        ),
    ] = None,
    show_completion: Annotated[
        completion.Shell | None,
        typer.Option(
            completion.SHOW,
            metavar="[SHELL]",
            callback=completion.show,
            is_eager=True,
            help="Print what the shell would read, to put it where it belongs.",
        ),
    ] = None,
) -> None:
    """Compile a language model's decode step into fused kernels and a launch plan; run it."""
    if show_version:
        typer.echo(f"fusec {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: user errors are one line and exit code 2; FUSEC_DEBUG shows the traceback.

    130 is the exit code after Ctrl-C, 128 and its number after another signal that ends programs,
    1 where the reader of standard output went away.
    """
    gc.set_threshold(YOUNG)
    streams.prepare()
    with streams.signals_unwind():
        try:
            given = completion.with_shell(sys.argv[1:] if args is None else args)
            code = app(given, prog_name="fusec", standalone_mode=False)
            sys.stdout.flush()
        except (typer.Abort, KeyboardInterrupt):
            code = 130
        except BrokenPipeError:
            code = 1
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            if os.environ.get("FUSEC_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            streams.complain(f"error: {' '.join(message.split())}")
            code = 2
        streams.finish()
        raise SystemExit(code if isinstance(code, int) else 0)


def user_message(error: Exception) -> str | None:
    """What to tell the user; None for an error that is ours."""
    if isinstance(error, FusecError):
        return str(error)
    if isinstance(error, MemoryError):
        return ": ".join(part for part in ("out of memory", str(error)) if part)
    if isinstance(error, OSError):
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return place + reason(error)
    # a mistake on the command line; typer has had classes of its own and click's for it
    format_message = getattr(error, "format_message", None)
    command = getattr(getattr(error, "ctx", None), "command_path", "fusec")
    if format_message is None:
        return None
    return f"{in_our_words(format_message(), error.__cause__)} ({command} --help explains)"


def in_our_words(message: str, cause: BaseException | None) -> str:
    """A mistake on the command line, without what pydantic says where typer asked it."""
    faults = getattr(cause, "errors", None)
    if faults is None:
        return message
    fault = faults()[0]
    wanted = NUMBERS.get(fault["type"])
    words = f"expected {wanted}, found '{fault['input']}'" if wanted else fault["msg"]
    return message.replace(fault["msg"], words.removeprefix("Value error, "))
