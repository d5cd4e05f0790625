"""The inside of a compiler process: kernels in by standard input, answers out by standard output.

A line in is a JSON object, whose `folder` and `name` say where the source lies. A line out is JSON
too: null once what was compiled lies in the folder, `{"refused": sentence}` for a source that does
not compile, or `{"unwritable": reason}` for a folder that cannot be written.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from fusec.errors import FusecError, reason

Request = dict[str, Any]

COLLECT_EVERY = 8
"""Kernels between two looks for garbage: each leaves up to 10 MB of it."""


def serve(compile_one: Callable[[Request], None]) -> None:
    """Compile what is asked for until standard input closes, and end at once when it does."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the compiler prints must not be taken for an answer
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    # a kernel's trees are many small objects, all needed until it is compiled: looking for garbage
    # among them takes a fifth of the time and finds none
    gc.disable()
    for served in itertools.count():
        request = json.loads(requests.get())
        answer = None
        try:
            compile_one(request)
        except FusecError as error:
            answer = {"refused": str(error)}
        except OSError as error:
            answer = {"unwritable": reason(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if served % COLLECT_EVERY == 0:
            gc.collect()
        if served == 0:
            gc.freeze()  # the compiler itself, which is loaded now, stays


def _read(requests: queue.SimpleQueue[str]) -> None:
    """Hand on the lines of standard input. Its end is the end of whoever wants the kernels."""
    for line in sys.stdin:
        requests.put(line)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # and of the assembler that may be running
    os._exit(0)
