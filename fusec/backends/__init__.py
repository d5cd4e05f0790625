"""The targets: `get(name)` gives the one object that the rest of fusec talks to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fusec.arguments import mistaken
from fusec.backends.base import Backend, Plans
from fusec.backends.cpu import Cpu
from fusec.backends.cuda import Cuda, native
from fusec.codegen.cuda.arch import ARCHS, NATIVE, NoGpu
from fusec.errors import FusecError

__all__ = ["BACKENDS", "NATIVE", "Backend", "NoGpu", "Plans", "get"]

BACKENDS: dict[str, Callable[[], Backend[Any, Any]]] = {
    "cpu": Cpu,
    **dict.fromkeys(NATIVE, native),
    **{name: partial(Cuda, arch) for name, arch in ARCHS.items()},
}
"""Name -> what makes its backend; `native` and `cuda` ask for this machine's GPU."""


def get(name: str) -> Backend[Any, Any]:
    """The target of that name.

    Raises FusecError for an unknown name, naming the known ones, and where there is no GPU to ask.
    """
    if not isinstance(name, str):
        raise mistaken("target", f"one of {', '.join(BACKENDS)}", name)
    if name not in BACKENDS:
        raise FusecError(f"unknown target '{name}': known are {', '.join(BACKENDS)}")
    return BACKENDS[name]()
