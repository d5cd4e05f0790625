"""What the process has around it: standard streams, which may be closed or full, and signals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")


def prepare() -> None:
    """Give every standard stream a place to go to, and text that a terminal cannot show a way out.

    A closed stream's number would be the next opened file's, which what is printed would go into.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Signals that end a program do it by way of `finally`: no process, no half-made file stays.

    A signal that is ignored, as under nohup, or that a program has its own use for, stays so.
    """
    taken = []
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _end)
                taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def complain(line: str) -> None:
    """Print a line on standard error, if there is room and somebody to read it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def finish() -> None:
    """Leave nothing unwritten to the interpreter's end, which would complain of it once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
