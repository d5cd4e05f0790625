"""A kernel for one row of the step becomes one for several: each statement is there for each row.

What a block has of weights serves all its rows: their numbers, loads and decoding do not depend on
the row and stay as they are. Every other statement follows for one row after the other, so that a
warp has as many chains of dependent instructions as there are rows, and a barrier serves them all.

    sum0 = fma(dot(levels0, digits0), scale0, sum0)
        =>      sum0_of0 = fma(dot(levels0, digits0_of0), scale0, sum0_of0)
                sum0_of1 = fma(dot(levels0, digits0_of1), scale0, sum0_of1)

The lines are those of the emitters: a statement a line, an assignment of names or a call, `if` and
`for`. A branch that only some rows take is written for each row as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from fusec.errors import FusecError

INDENT = "    "
TOGETHER = {"barrier", "cluster_arrive_relaxed", "cluster_wait", "griddep_launch", "griddep_wait"}
"""What all threads of a block or cluster do once, for all rows."""
COUNTED = {"copy_async_commit", "copy_async_wait"}
"""What counts the copies in front of it, and so cannot be repeated."""
_NAME = re.compile(r"\b[A-Za-z_]\w*")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*) = (?!=)")
_LOOP = re.compile(r"for (\w+) in ")


@dataclass
class _Statement:
    """A line, and the lines inside if it opens a block; `branches`: its `elif` and `else`."""

    text: str
    body: list[_Statement] = field(default_factory=list)
    branches: list[_Statement] = field(default_factory=list)

    @property
    def code(self) -> str:
        """Without the comment."""
        return self.text.partition("  #")[0]

    @property
    def names(self) -> set[str]:
        """Every name of the line, functions and keywords too."""
        return set() if self.text.startswith("#") else set(_NAME.findall(self.code))

    @property
    def assigned(self) -> set[str]:
        """Names that the line gives a value."""
        found = _ASSIGNED.match(self.code) or _LOOP.match(self.code)
        return set(found[1].split(", ")) if found else set()

    @property
    def heads(self) -> set[str]:
        """Names that decide which of the blocks inside is run."""
        return self.names.union(*(other.names for other in self.branches))

    def inside(self) -> Iterator[_Statement]:
        """All statements of its blocks."""
        for block in (self, *self.branches):
            for statement in block.body:
                yield statement
                yield from statement.inside()


def interleaved(lines: Sequence[str], own: Collection[str], count: int) -> list[str]:
    """The lines for `count` rows.

    `own`: names whose values are the row's before the first line, and which have an `of_row` name
    for each row already. Raises FusecError where what all threads do together, or what counts
    copies, depends on the row.
    """
    statements = _parsed(lines)
    varying = _varying(statements, own)
    return list(_emit(statements, varying, count, ""))


def of_row(name: str, k: int) -> str:
    """What is called `name` in a kernel for one row, of the block's k-th."""
    return f"{name}_of{k}"


def _parsed(lines: Sequence[str]) -> list[_Statement]:
    """Statements, by their indentation."""
    top: list[_Statement] = []
    blocks = [top]
    for line in lines:
        text = line.lstrip(" ")
        if text:
            del blocks[(len(line) - len(text)) // len(INDENT) + 1 :]
        statement = _Statement(text)
        if re.match(r"(elif |else:)", text):
            blocks[-1][-1].branches.append(statement)
        else:
            blocks[-1].append(statement)
        if statement.code.endswith(":"):
            blocks.append(statement.body)
    return top


def _varying(statements: Sequence[_Statement], own: Collection[str]) -> set[str]:
    """Names that have a value for each row: those that are made of one, or where one decides."""
    every = [s for top in statements for s in (top, *top.inside())]
    varying = set(own)
    while True:
        found = set(varying)
        for s in every:
            if s.names & found:
                found |= s.assigned
            if s.heads & found and (s.body or s.branches):
                found = found.union(*(inner.assigned for inner in s.inside()))
        if found == varying:
            return varying
        varying = found


def _emit(
    statements: Sequence[_Statement], varying: set[str], count: int, indent: str
) -> Iterator[str]:
    for s in statements:
        if not s.body:
            if s.names & varying:
                _check(s.names)
                for k in range(count):
                    yield indent + _renamed(s.text, varying, k)
            else:
                yield indent + s.text if s.text else ""
        elif s.heads & varying:
            for inner in s.inside():
                _check(inner.names, together=False)
            for k in range(count):
                yield from _written(s, indent, partial(_renamed, varying=varying, k=k))
        else:
            for block in (s, *s.branches):
                yield indent + block.text
                yield from _emit(block.body, varying, count, indent + INDENT)


def _check(names: set[str], together: bool = True) -> None:
    """Refuse what cannot be repeated for each row."""
    if wrong := sorted(names & (COUNTED if together else COUNTED | TOGETHER)):
        raise FusecError(f"{wrong[0]}: expected the same for all rows of a block, found one a row")


def _written(s: _Statement, indent: str, renamed: Callable[[str], str]) -> Iterator[str]:
    """A statement and what is inside."""
    for block in (s, *s.branches):
        yield indent + renamed(block.text)
        for inner in block.body:
            yield from _written(inner, indent + INDENT, renamed)


def _renamed(text: str, varying: set[str], k: int) -> str:
    """A line of the k-th row."""
    code, mark, comment = text.partition("  #")
    code = _NAME.sub(lambda m: of_row(m[0], k) if m[0] in varying else m[0], code)
    return f"{code}{mark}{comment}" if k == 0 else code
