"""Arguments of the library's calls: each of the kind that the call expects, or a FusecError."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from fusec.errors import FusecError

LONGEST = 60
"""Characters of a value that an error quotes; of a longer one it names the type."""


def mistaken(name: str, wanted: str, found: object) -> FusecError:
    """An error for an argument: what was expected, and what was found.

    >>> str(mistaken("level", "a whole number", "2"))
    "level: expected a whole number, found '2'"
    """
    return FusecError(f"{name}: expected {wanted}, found {shown(found)}")


def shown(found: object) -> str:
    """A value as an error quotes it: itself if it is short and plain, or else its type.

    >>> shown(3), shown(None), shown([1, 2])
    ('3', 'None', 'list')
    """
    is_plain = found is None or isinstance(found, int | float | complex | str | bytes)
    return text if is_plain and len(text := repr(found)) <= LONGEST else type(found).__name__


def none_of(what: str, name: object, known: Collection[str]) -> FusecError:
    """An error for a name that is none of many, too many to list: it gives those that are near.

    >>> str(none_of("no tensor", "output", ["token_embd.weight", "output.weight"]))
    "no tensor 'output': did you mean output.weight?"
    >>> str(none_of("no tensor", "nope", ["token_embd.weight", "output.weight"]))
    "no tensor 'nope': there are 2, such as token_embd.weight"
    """
    from difflib import get_close_matches  # nobody else needs it at the start

    if near := get_close_matches(str(name), known):
        return FusecError(f"{what} {shown(name)}: did you mean {' or '.join(near)}?")
    such = f", such as {next(iter(known))}" if known else ""
    return FusecError(f"{what} {shown(name)}: there are {len(known):,}{such}")


def whole(name: str, found: Any, wanted: str = "a whole number", least: int | None = None) -> int:
    """A whole number, of Python's or NumPy's kind, of at least so much if that is given.

    Raises FusecError for anything else.
    """
    try:
        number = operator.index(found)
    except TypeError:
        raise mistaken(name, wanted, found) from None
    if isinstance(found, bool) or (least is not None and number < least):
        raise mistaken(name, wanted, found)
    return number


def texts(name: str, found: Any, wanted: str) -> tuple[str, ...]:
    """A text, or several, as a tuple. Raises FusecError for anything else."""
    if isinstance(found, str):
        return (found,)
    several = tuple(found) if isinstance(found, Iterable) else (found,)
    for each in several:
        if not isinstance(each, str):
            raise mistaken(name, wanted, each)
    return several


def path(name: str, found: str | os.PathLike[str], wanted: str) -> Path:
    """A path. Raises FusecError for what is none."""
    try:
        return Path(found)
    except TypeError:
        raise mistaken(name, wanted, found) from None
