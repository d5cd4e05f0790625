"""The body of a kernel, in stages.

An emitter names the stage that a line belongs to, and may write stages in any order; `assemble` in
`fusec.codegen.cuda.wrapper` puts them in the order below. What stands between stages (the wait for
the launch in front, the release of the next one) belongs to the wrapper, not to the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, auto

from fusec.writer import Writer


class Stage(IntEnum):
    """In the order of a kernel's text. Stages before WAIT need nothing that this step computes."""

    FIND = auto()  # the token's position
    LOAD = auto()  # weights into registers, decoded; older rows of the caches
    COPY = auto()  # records on their way to shared memory: so many bytes that other loads go first
    WAIT = auto()  # until the launch in front is complete; nothing is written here
    READ = auto()  # what the launch in front made
    BESIDE = auto()  # work that needs none of it, while it is on its way
    FIRST = auto()  # what was read first becomes what products want of it
    MAKE = auto()  # the rest of it, and the barrier that ends this
    COMPUTE = auto()  # products, element-wise work, stores


@dataclass(frozen=True)
class Piece:
    """Some lines of a stage. `guard`: the condition under which blocks run them; empty: always.

    `apart`: a blank line goes in front.
    """

    guard: str
    lines: tuple[str, ...]
    apart: bool


class Staged(Writer):
    """A writer whose lines go to the stage that `at` has opened."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: dict[Stage, list[Piece]] = {stage: [] for stage in Stage}
        self._is_open = False

    @contextmanager
    def at(self, stage: Stage, guard: str = "", apart: bool = False) -> Iterator[None]:
        """Inside the `with`, lines belong to a stage; stages are not opened inside others."""
        assert not self._is_open and stage is not Stage.WAIT
        self._lines, self._depth, self._is_open = [], 0, True
        yield
        if self._lines:
            self._pieces[stage].append(Piece(guard, tuple(self._lines), apart))
        self._lines, self._is_open = [], False

    def line(self, text: str = "", comment: str = "") -> None:
        """See `Writer.line`."""
        assert self._is_open, f"a line of no stage: {text}"
        super().line(text, comment)

    def lines(self, stage: Stage) -> list[str]:
        """All lines of a stage, in the order they were written."""
        found: list[str] = []
        for piece in self._pieces[stage]:
            found += [""] if piece.apart else []
            indent = "    " if piece.guard else ""
            found += [f"if {piece.guard}:"] if piece.guard else []
            found += [f"{indent}{line}" if line else "" for line in piece.lines]
        return found
