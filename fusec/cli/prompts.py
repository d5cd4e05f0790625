"""Where a prompt and a chat template come from: an option, a file, or standard input."""

from __future__ import annotations

from pathlib import Path

from fusec.errors import FusecError
from fusec.texts import read_text, standard_input, utf8

STDIN = "-"


def prompt_of(text: str | None, file: Path | None, *, elsewhere: bool) -> str | None:
    """The prompt of -p and -f; without them what is piped in, unless it comes from `elsewhere`.

    A line end at the end of a file or of standard input is not part of it, as in llama.cpp. None:
    there is none. Raises FusecError for two prompts, an empty one and one that is not UTF-8.
    """
    if text is not None and file is not None:
        raise FusecError("the prompt is given twice, as text (-p) and as a file (-f)")
    if file is not None and str(file) != STDIN:
        return _some(read_text(file), str(file))
    if STDIN in (text, str(file)):
        return _some(_piped(), "standard input")
    if text is None and not elsewhere and not standard_input().isatty():
        return _without_line_end(_piped()) or None
    return text


def template_of(given: str | None) -> str | None:
    """The text of a chat template: what is given, or what is in the file of that name.

    Raises FusecError for a file that is not there, and one that is not UTF-8.
    """
    if given is None or "{" in given:
        return given
    if not Path(given).exists():
        raise FusecError(f"--chat-template: expected a Jinja template or a file, found '{given}'")
    return read_text(Path(given))


def _piped() -> str:
    return utf8(standard_input().read(), "standard input")


def _some(text: str, where: str) -> str:
    if prompt := _without_line_end(text):
        return prompt
    raise FusecError(f"{where}: the prompt is empty: expected some text")


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
