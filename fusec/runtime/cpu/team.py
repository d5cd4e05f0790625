"""A team of threads that runs a list of kernels as a GPU runs launches: in order, all threads on
each, nobody starting the next before everybody has finished this one.

A kernel is the address of a C function `void kernel(int64* args, int32 thread, int32 threads)`,
for example that of a numba `cfunc`. It must not raise. Between runs workers wait for about a
millisecond with the CPU in hand, so that a token loop never pays for waking them, and then sleep.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from fusec.codegen.cpu.team_words import GATE, STATE_WORDS, STOPPED, YIELD
from fusec.errors import FusecError
from fusec.runtime.turns import Turns

Words = NDArray[np.int64]
MAX_THREADS = 61  # workers have a bit each in one word
IDLE_SECONDS = 1e-3
GONE_SECONDS = 1.0  # at most, and only where the system is slow to end threads
WAKE_YIELDS = 2000


@dataclass(frozen=True, eq=False)
class Loops:
    """The compiled loops, called through ctypes, which lets go of the GIL meanwhile."""

    serve: Callable[..., int]
    try_run: Callable[..., int]
    stop: Callable[[int], None]
    pauses: Callable[[int], None]

    @classmethod
    def at(cls, addresses: Mapping[str, int]) -> Loops:
        """From the addresses of `fusec.codegen.cpu.team_loops`' functions."""
        word = ctypes.c_int64
        return cls(
            ctypes.CFUNCTYPE(word, *[word] * 5)(addresses["serve"]),
            ctypes.CFUNCTYPE(word, *[word] * 7)(addresses["try_run"]),
            ctypes.CFUNCTYPE(None, word)(addresses["stop"]),
            ctypes.CFUNCTYPE(None, word)(addresses["pauses"]),
        )


class Team:
    """`threads` threads, of which the caller of `run` is number 0. Use as a context manager, or
    leave it to the interpreter's exit. Runs from several Python threads take turns.

    `addresses`: of the compiled loops, as `fusec.codegen.cpu.build.build_team` gives them.
    """

    def __init__(self, threads: int, addresses: Mapping[str, int]):
        if not 1 <= threads <= MAX_THREADS:
            raise FusecError(f"threads: expected 1 to {MAX_THREADS}, found {threads}")
        self.threads = threads
        self._loops = Loops.at(addresses)
        self._turn = Turns("thread team")
        # the allocator aligns to 16 bytes or more; the words' distances leave room for the rest
        self._state: Words = np.zeros(STATE_WORDS, np.int64)
        self._state[YIELD] = _yield_address()
        self._state[GATE] = sum(1 << t for t in range(1, threads))
        self._address = self._state.ctypes.data
        self._wake: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(1, threads)]
        self._workers = [
            threading.Thread(
                target=_worker,
                args=(self._loops, self._state, thread, threads, wake),
                name=f"fusec-{thread}",
                daemon=True,
            )
            for thread, wake in enumerate(self._wake, start=1)
        ]
        for worker in self._workers:
            worker.start()
        self._finalizer = weakref.finalize(
            self, _stop, self._loops, self._state, self._workers, self._wake
        )

    def run(self, kernels: Words, args: Words) -> None:
        """Execute kernel `kernels[i]` with the arguments `args[i]` on all threads, for every i.

        :param kernels: `int64[n]`, addresses.
        :param args: `int64[n, width]`, a row of arguments per launch; may be changed between runs.
        """
        if kernels.dtype != np.int64 or args.dtype != np.int64 or args.ndim != 2:
            raise FusecError(
                f"launches: expected int64[n] and int64[n, width], found {kernels.dtype}"
                f"{list(kernels.shape)} and {args.dtype}{list(args.shape)}"
            )
        if kernels.shape != args.shape[:1] or not (
            kernels.flags.c_contiguous and args.flags.c_contiguous
        ):
            raise FusecError(
                "launches: expected contiguous tables of equal length, found "
                f"{list(kernels.shape)} kernels and {list(args.shape)} arguments"
            )
        count, width = args.shape
        task = (self._address, kernels.ctypes.data, args.ctypes.data, count, width, self.threads)
        with self._turn.take():
            self._turn.check()
            asleep = self._loops.try_run(*task, 0)
            while asleep:
                for thread, wake in enumerate(self._wake, start=1):
                    if asleep >> thread & 1:
                        wake.put(None)
                asleep = self._loops.try_run(*task, WAKE_YIELDS)

    def close(self) -> None:
        """End the threads; in a forked child there are none. The team cannot run again."""
        if not self._turn.is_forked:
            with self._turn.take():
                self._turn.closed = True
                self._finalizer()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _worker(loops: Loops, state: Words, thread: int, threads: int, wake: SimpleQueue[None]) -> None:
    """A worker's life. It must not know the `Team`, which ends it when nobody holds that."""
    idle_spins = _idle_spins(loops)
    epoch = 0
    while epoch != STOPPED:
        epoch = loops.serve(state.ctypes.data, thread, threads, epoch, idle_spins)
        if epoch != STOPPED:
            wake.get()


def _stop(
    loops: Loops,
    state: Words,
    workers: list[threading.Thread],
    wake: list[SimpleQueue[None]],
) -> None:
    """End the workers and wait until they have gone."""
    if not any(worker.is_alive() for worker in workers):  # none, or not in this forked child
        return
    loops.stop(state.ctypes.data)
    for queue in wake:
        queue.put(None)
    for worker in workers:
        worker.join()
    _until_gone(workers)


def _until_gone(workers: list[threading.Thread]) -> None:
    """Wait until the system has no such threads: `join` only waits for the last of their Python."""
    end = time.monotonic() + GONE_SECONDS
    for worker in workers:
        while os.path.exists(f"/proc/self/task/{worker.native_id}") and time.monotonic() < end:
            time.sleep(1e-5)


@functools.lru_cache(maxsize=1)
def _idle_spins(loops: Loops) -> int:
    """How many pauses make up the time that a worker waits with the CPU in hand."""
    sample = 20_000
    start = time.perf_counter()
    loops.pauses(sample)
    return max(1000, int(sample * IDLE_SECONDS / (time.perf_counter() - start)))


def _yield_address() -> int:
    """The address of the C function that gives the rest of a time slice to others."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0
