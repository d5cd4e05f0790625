"""Text from outside: from files, from standard input, from the command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TextIO

from fusec.errors import FusecError, reason


def utf8(text: str, where: str) -> str:
    """Text from outside, where Python keeps bytes it could not decode as lone surrogates.

    In a locale without UTF-8 these are all bytes beyond ASCII, and UTF-8 after all as a rule.
    Raises FusecError for what is not.
    """
    try:
        return text.encode(errors="surrogateescape").decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise FusecError(f"{where}: expected UTF-8 text, found {error.reason}") from None


def read_text(path: Path) -> str:
    """A text file. Raises FusecError if it cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FusecError(
            f"{path}: expected UTF-8 text, found {error.reason} in line {line}, "
            f"0x{error.object[error.start]:02x}"
        ) from None


def standard_input() -> TextIO:
    """Standard input as UTF-8 in any locale; `utf8` refuses what is not."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    return sys.stdin
