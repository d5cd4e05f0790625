"""Writing indented source text."""

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
