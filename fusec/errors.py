"""The one exception a user is meant to see: a sentence, not a traceback."""


class FusecError(Exception):
    """Bad input or an impossible request.

    The message is one line that names the file, tensor or node, what was expected and what was
    found. The command line prints it and exits with 2; `FUSEC_DEBUG=1` shows the traceback too.
    """
