"""Engines that take turns: each is opened once, as long as memory holds all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fusec.runtime.engine import Engine

Result = TypeVar("Result")


class Opened:
    """Engines by number, which stay open from one use to the next.

    `open_one(i)` opens the i-th. Where there is no memory for another, all are closed, and half as
    many stay open from then on; the others are opened for each use. At the end all are closed.
    """

    def __init__(self, open_one: Callable[[int], Engine]) -> None:
        self._open_one = open_one
        self._engines: dict[int, Engine] = {}
        self._most: int | None = None  # engines that stay open; None while memory holds all

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def use(self, number: int, work: Callable[[Engine], Result]) -> Result:
        """What `work` gives for an engine; it is done again where memory did not suffice.

        Raises what `work` raises, and MemoryError where a single engine is too much.
        """
        try:
            return self._use(number, work)
        except MemoryError:
            if not self._engines:
                raise
            self._most = len(self._engines) // 2
            self._close()
        return self._use(number, work)

    def _use(self, number: int, work: Callable[[Engine], Result]) -> Result:
        if number in self._engines:
            return work(self._engines[number])
        engine = self._open_one(number)
        if self._most is None or len(self._engines) < self._most:
            self._engines[number] = engine
            return work(engine)
        with engine:
            return work(engine)

    def _close(self) -> None:
        while self._engines:
            self._engines.popitem()[1].close()
