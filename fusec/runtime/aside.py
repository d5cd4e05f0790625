"""Generating beside an event loop: one thread of the engine's own works, one request after another.

The loop gets pieces in handfuls, since going from thread to thread takes longer than a small
model's token.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from fusec.runtime.completion import Piece, Stream

Result = TypeVar("Result")

HANDFUL_S = 0.01
"""How long pieces are collected: quick enough for a reader, rare enough to cost little."""


class Aside:
    """The thread, and whose turn it is. `acting_for` is told in the thread for whom it works."""

    def __init__(self, acting_for: Callable[[threading.Thread | None], None]) -> None:
        self._acting_for = acting_for
        self._thread = ThreadPoolExecutor(1, "fusec-engine")
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the requests of other tasks of this event loop."""
        lock = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with lock:
            yield

    async def pieces(self, stream: Stream) -> AsyncIterator[Piece]:
        """What a stream gives. A task that is cancelled leaves it where it is."""
        ended = False
        while not ended:
            handful, ended = await self._do(lambda: _handful(stream))
            for piece in handful:
                yield piece

    async def _do(self, work: Callable[[], Result]) -> Result:
        caller = threading.current_thread()

        def inside() -> Result:
            self._acting_for(caller)
            try:
                return work()
            finally:
                self._acting_for(None)

        return await asyncio.get_running_loop().run_in_executor(self._thread, inside)

    def close(self) -> None:
        """End the thread, when it is done with what it does."""
        self._thread.shutdown(wait=False)


def _handful(stream: Stream) -> tuple[list[Piece], bool]:
    """What comes in the next while, at least one piece, and whether that was all."""
    found: list[Piece] = []
    end = time.perf_counter() + HANDFUL_S
    for piece in stream:
        found.append(piece)
        if time.perf_counter() > end:
            return found, False
    return found, True
