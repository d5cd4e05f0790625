"""A team of threads that runs a list of kernels as a GPU runs launches: in order, all threads on
each, nobody starting the next before everybody has finished this one.

A kernel is the address of a C function `void kernel(int64* args, int32 thread, int32 threads)`,
for example that of a numba `cfunc`. It must not raise. Between runs workers spin for about a
millisecond, so that a token loop never pays for waking them, and then sleep.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusec.arguments import whole
from fusec.codegen.cpu.team_words import FIRST, FUTEX, RUN_BELL, STALLS, TAKEN, TIMEOUT, state_words
from fusec.errors import FusecError
from fusec.runtime.cpu.team_size import TeamSize
from fusec.runtime.turns import Turns

Words = NDArray[np.int64]
MAX_THREADS = 1024
IDLE_SECONDS = 1e-3
GONE_SECONDS = 1.0  # at most, and only where the system is slow to end threads
TIMEOUT_NS = 500_000  # of a sleep inside a run: the kernel may have moved whom it waits for
FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}


@dataclass(frozen=True, eq=False)
class Loops:
    """The compiled loops, called through ctypes, which lets go of the GIL meanwhile."""

    serve: Callable[..., None]
    run: Callable[..., None]
    stop: Callable[[int], None]
    pauses: Callable[[int], None]

    @classmethod
    def at(cls, addresses: Mapping[str, int]) -> Loops:
        """From the addresses of `fusec.codegen.cpu.team_loops`' functions."""
        word = ctypes.c_int64
        return cls(
            ctypes.CFUNCTYPE(None, *[word] * 3)(addresses["serve"]),
            ctypes.CFUNCTYPE(None, *[word] * 6)(addresses["run"]),
            ctypes.CFUNCTYPE(None, word)(addresses["stop"]),
            ctypes.CFUNCTYPE(None, word)(addresses["pauses"]),
        )


def check_threads(count: int, name: str = "threads") -> int:
    """The number, given by that name. Raises FusecError for one that no team has."""
    count = whole(name, count, f"1 to {MAX_THREADS}")
    if not 1 <= count <= MAX_THREADS:
        raise FusecError(f"{name}: expected 1 to {MAX_THREADS}, found {count}")
    return count


class Team:
    """`threads` threads, of which the caller of `run` is number 0. Use as a context manager, or
    leave it to the interpreter's exit. Runs from several Python threads take turns.

    `addresses`: of the compiled loops, as `fusec.codegen.cpu.build.build_team` gives them.
    """

    def __init__(self, threads: int, addresses: Mapping[str, int]):
        self.threads = check_threads(threads)
        self._size = TeamSize(threads)
        self._loops = Loops.at(addresses)
        self._turn = Turns("thread team")
        # the allocator aligns to 16 bytes or more; the words' distances leave room for the rest
        self._state: Words = np.zeros(state_words(threads), np.int64)
        self._state[FIRST] = 1
        self._state[FUTEX : TIMEOUT + 2] = *_how_to_sleep(), 0, TIMEOUT_NS
        self._address = self._state.ctypes.data
        self._words = memoryview(self._state)  # type: ignore[arg-type]  # read faster than an array
        self._workers = [
            threading.Thread(
                target=_worker,
                args=(self._loops, self._state, thread),
                name=f"fusec-{thread}",
                daemon=True,
            )
            for thread in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()
        self._finalizer = weakref.finalize(self, _stop, self._loops, self._state, self._workers)

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
        with self._turn.take():
            self._turn.check()
            table = kernels.ctypes.data
            before, start = self._counts(), time.perf_counter()
            self._loops.run(self._address, table, args.ctypes.data, count, width, self._size.now)
            seconds = time.perf_counter() - start
            rings, taken, stalls = self._counts()
            if count and rings == before[0]:  # who first has to wake up is late on any machine
                taken -= before[1]
                late = taken + stalls - before[2]
                self._size.record((table, count), seconds, taken / count, late)

    def _counts(self) -> tuple[int, int, int]:
        """How often workers were woken for a run, parts were done by others, and threads slept."""
        return self._words[RUN_BELL], self._words[TAKEN], self._words[STALLS]

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


def _worker(loops: Loops, state: Words, thread: int) -> None:
    """A worker's life. It must not know the `Team`, which ends it when nobody holds that."""
    loops.serve(state.ctypes.data, thread, _idle_spins(loops))


def _stop(loops: Loops, state: Words, workers: list[threading.Thread]) -> None:
    """End the workers and wait until they have gone."""
    if not any(worker.is_alive() for worker in workers):  # none, or not in this forked child
        return
    loops.stop(state.ctypes.data)
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


def _how_to_sleep() -> tuple[int, int, int, int]:
    """The number of the system call futex, or 0; the C function to call; two times to sleep."""
    if sys.platform == "win32":
        return 0, _address(ctypes.WinDLL("kernel32").Sleep), 1, 5  # milliseconds
    number = FUTEX_NUMBERS.get(platform.machine(), 0) if sys.platform == "linux" else 0
    library = ctypes.CDLL(None)
    function = library.syscall if number else library.usleep
    return number, _address(function), 200, 5000  # microseconds


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
