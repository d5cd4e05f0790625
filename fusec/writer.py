"""Writing text: indented source, and the one line that a `repr` is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Writer:
    """`line(...)` appends a line at the current depth; `with block("for ...:")` goes one deeper."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def line(self, text: str = "", comment: str = "") -> None:
        """Append one line, with a comment behind it if given."""
        full = f"{text}  # {comment}" if comment else text
        self._lines.append("    " * self._depth + full if full else "")

    @contextmanager
    def block(self, head: str, comment: str = "") -> Iterator[None]:
        """A line and, inside the `with`, its indented body."""
        self.line(head, comment)
        self._depth += 1
        yield
        self._depth -= 1

    @property
    def text(self) -> str:
        """Everything written."""
        return "\n".join(self._lines) + "\n"


LONGEST = 160
"""Characters of a `repr`."""


def brief(what: object, text: str) -> str:
    """A `repr` for people: `<Graph toy: 3 nodes>`, one line that is cut where it is long."""
    line = " ".join(f"{type(what).__name__} {text}".split())
    return f"<{line if len(line) <= LONGEST else line[: LONGEST - 3] + '...'}>"


def count(number: int, thing: str) -> str:
    """`1 node`, `2 nodes`, `1,000 launches`."""
    ending = "" if number == 1 else "es" if thing.endswith(("s", "ch")) else "s"
    return f"{number:,} {thing}{ending}"
