"""Where a kernel is while its NumPy twin runs: the line, and what its places are called."""

from __future__ import annotations

import itertools
import linecache
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

TWIN = "<twin of "  # what the file name of a kernel's code begins with
_LIBRARY = str(Path("cuda", "lib"))
_PLACES = ("shared_bytes(", "dynamic_shared(", "uint32(shared + ")  # what names shared memory
_NUMBERS = itertools.count()
_LINES: dict[tuple[Any, ...], int] = {}  # line of a kernel, file and line of what it calls: number


class Lines:
    """Of one kernel."""

    def __init__(self, source: str) -> None:
        self.lines = source.splitlines()

    def now(self) -> int:
        """A number for the line that runs."""
        frame: FrameType | None = sys._getframe(1)
        inside: tuple[Any, ...] = ()
        while frame is not None and not frame.f_code.co_filename.startswith(TWIN):
            if not inside and _LIBRARY in frame.f_code.co_filename:
                inside = (frame.f_code.co_filename, frame.f_lineno)
            frame = frame.f_back
        return _LINES.setdefault((frame.f_lineno if frame else 0, *inside), next(_NUMBERS))

    def text(self, number: int) -> str:
        """What the line of that number says, and the one that it was called from."""
        line, *inside = next(key for key, found in _LINES.items() if found == number)
        text = f"line {line}: {self.lines[line - 1].strip() if 0 < line <= len(self.lines) else ''}"
        if inside:
            path, at = inside
            text += f"\n    {Path(path).name} {at}: {linecache.getline(path, at).strip()}"
        return text

    def place(self, address: int) -> str:
        """An address in shared memory, counted from the variable that comes next below it."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(TWIN):
            frame = frame.f_back
        named = [
            line.split("=")[0].strip() for line in self.lines if any(p in line for p in _PLACES)
        ]
        best, name = 0, "shared memory"
        for variable in named:
            value = np.asarray(frame.f_locals.get(variable, address + 1) if frame else address + 1)
            if value.dtype.kind in "iu" and best <= int(value.flat[0]) <= address:
                best, name = int(value.flat[0]), variable
        return f"{name} + {address - best} bytes"
