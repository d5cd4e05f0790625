"""Wrappers: what stands between the stages of a kernel's body, which depends on how it is run.

There are three: a launch that begins when the one in front has ended, one that overlaps it (PDL),
and a phase of a resident kernel, which waits until enough blocks have ended the phases in front.
The body is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fusec.codegen.cuda.stages import Stage, Staged

_RELEASED = {"begin": Stage.FIND, "read": Stage.MAKE, "barrier": Stage.COMPUTE}
"""Release -> the stage it stands in front of, but for those on either side of the wait."""


class Wrapper(Protocol):
    """Gives the lines in front of each stage. `hold`: see `Dependent`."""

    def in_front_of(self, stage: Stage, hold: Callable[[], list[str]]) -> list[str]:
        """The lines between the stage before and this one."""


@dataclass(frozen=True)
class Launched:
    """A launch that begins when the one in front has ended: nothing to wait for."""

    def in_front_of(self, stage: Stage, hold: Callable[[], list[str]]) -> list[str]:
        """See `Wrapper`."""
        return []


@dataclass(frozen=True)
class Dependent:
    """A programmatic dependent launch: it may begin while the one in front still runs.

    It waits for it (`griddepcontrol.wait`), and lets the next one begin at `release`, one of
    `fusec.ir.choice.RELEASES`. `hold` gives the lines that keep in registers what is used behind
    the wait, so that nothing has to be loaded again there.
    """

    release: str

    def in_front_of(self, stage: Stage, hold: Callable[[], list[str]]) -> list[str]:
        """See `Wrapper`."""
        begin = ["griddep_launch()"]
        if stage is Stage.WAIT:
            early = begin if self.release == "load" else []
            late = begin if self.release == "wait" else []
            return [*early, *hold(), "griddep_wait()", *late]
        return begin if _RELEASED.get(self.release) is stage else []


@dataclass(frozen=True)
class Phase:
    """A phase of a resident kernel (`fusec.codegen.cuda.resident`).

    `again`: lines that come behind the wait.
    """

    again: tuple[str, ...]

    def in_front_of(self, stage: Stage, hold: Callable[[], list[str]]) -> list[str]:
        """See `Wrapper`; nothing has to be held."""
        if stage is not Stage.WAIT:
            return []
        return ["await_phase(arrived, entry, told)", *self.again]


def assemble(body: Staged, wrapper: Wrapper, hold: Callable[[], list[str]]) -> list[str]:
    """A kernel's lines: the stages in order, and what the wrapper puts between them."""
    return [
        line for stage in Stage for line in (*wrapper.in_front_of(stage, hold), *body.lines(stage))
    ]
