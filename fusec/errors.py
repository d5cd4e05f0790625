"""The one exception a user is meant to see: a sentence, not a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class FusecError(Exception):
    """Bad input or an impossible request.

    The message is one line that names the file, tensor or node, what was expected and what was
    found. The command line prints it and exits with 2; `FUSEC_DEBUG=1` shows the traceback too.
    What it quotes may come from a damaged file: line ends become spaces, and what cannot be printed
    is escaped, so that nobody's file writes to a terminal.
    """

    def __init__(self, message: str) -> None:
        if not message.isprintable():
            line = " ".join(message.splitlines())
            message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        super().__init__(message)


def reason(error: OSError) -> str:
    """Why the system refused, in its words: not every OSError has an error number, or a text."""
    return error.strerror or str(error) or type(error).__name__


def unknown(what: str, name: str, known: Iterable[str]) -> FusecError:
    """An error for a name that is none of the known: it lists them, the one that is meant first.

    >>> str(unknown("no level", "fusd", ["fused", "deep"]))
    "no level 'fusd': did you mean 'fused'? known are deep, fused"
    """
    from difflib import get_close_matches  # nobody else needs it at the start

    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    return FusecError(f"{what} '{name}': {meant}known are {', '.join(names)}")
