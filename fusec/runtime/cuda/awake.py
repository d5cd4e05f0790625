"""The first call of the CUDA driver takes a third of a second: made beside other work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fusec.codegen.cuda.arch import ARCHS, NATIVE
from fusec.errors import FusecError
from fusec.runtime.cuda.driver import Driver


@contextmanager
def awake(target: str | None) -> Iterator[None]:
    """Hold the first GPU, if `target` is one, while a model is loaded; a thread opens it.

    Where that fails nothing is said: whoever needs the GPU says it better.
    """
    if target not in NATIVE and target not in ARCHS:
        yield
        return
    found: list[Driver] = []

    def hold() -> None:
        with suppress(FusecError):
            found.append(Driver())

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        for driver in found:
            driver.close()
