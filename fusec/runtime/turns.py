"""An engine or session serves one call at a time, in the process that made it, until it is closed.

Kernels run without the GIL over addresses, so two calls at once would compute in each other's
memory, a forked child would wait for threads that it does not have, and a call after the end would
write to what is no longer there. Each of these ends as a wait or a FusecError.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import Any, TypeVar

from fusec.errors import FusecError

Own = TypeVar("Own")


class Turns:
    """Calls of several threads one after another. A call is `with turns.take(): turns.check()`.

    `what` it guards is named in errors.
    """

    def __init__(self, what: str) -> None:
        self.what, self.closed = what, False
        self._lock = threading.RLock()
        self._process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that made it: threads and GPU stayed there."""
        return os.getpid() != self._process

    def take(self) -> Any:
        """A context manager that waits for the calls of other threads.

        Raises FusecError in a forked child, whose copy of the lock nobody may ever release, and
        where this thread is in a call already: a signal handler that would wait for itself.
        """
        if self.is_forked:
            raise FusecError(
                f"the {self.what} was made before this process was forked, which left its threads "
                f"and its GPU behind: make one in this process, or start it with 'spawn'"
            )
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise FusecError(f"the {self.what} is busy with another call of this thread")
        return self._lock

    def check(self) -> None:
        """Raise FusecError if it is closed. To be called inside `take`."""
        if self.closed:
            raise FusecError(f"the {self.what} is closed: it has given back its memory and threads")


class Closing(ABC):
    """Has a `close` and can stand in a `with` statement, which calls it."""

    @abstractmethod
    def close(self) -> None:
        """Give back memory and threads. A second call does nothing."""

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
