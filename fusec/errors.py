"""The one exception a user is meant to see: a sentence, not a traceback."""


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
