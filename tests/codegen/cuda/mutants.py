"""Kernels without one of their lines that synchronise, and whether that is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.cuda.twins_history import RaceError
from fusec.codegen.cuda.twins_order import Trace
from tests.codegen.cuda.twin_session import TwinSession

_NAMES = (
    "barrier|warp_barrier|cluster_arrive|cluster_arrive_relaxed|cluster_wait|mailbox_open"
    "|mailbox_wait|griddep_wait|copy_async_commit|copy_async_wait|copy_async_wait_[0-9]"
)
_LINE = re.compile(rf"^( +)(({_NAMES})\(.*)$", re.MULTILINE)
_COUNT = re.compile(r"copy_async_wait_([0-6])\(\)$")


def without(source: str) -> Iterator[tuple[str, re.Match[str]]]:
    """What a synchronising line says, and where it is; later ones first, so that places hold."""
    yield from reversed([(match[2], match) for match in _LINE.finditer(source)])


def unnoticed(source: str, run: Callable[[str], None]) -> list[str]:
    """Lines that may go, all of them together: of the others, each is missed if it goes.

    A line goes from a source that `run` takes without a `RaceError`, and stays away if that goes
    unnoticed, so of two that do one thing, one is found. A wait for copies is also tried for one
    group less, where it is needed.
    """
    run(source)
    found = []
    for line, match in without(source):
        begin, end = match.span()
        less = source[:begin] + match[1] + "pass" + source[end:]
        if _passes(less, run):
            found.append(line)
            source = less
        elif count := _COUNT.match(line):
            later = match[1] + f"copy_async_wait_{int(count[1]) + 1}()"
            imports = f"from fusec.codegen.cuda.device import copy_async_wait_{int(count[1]) + 1}\n"
            if _passes(imports + source[:begin] + later + source[end:], run):
                found.append(f"{line} for one group less")
    return found[::-1]


def _passes(source: str, run: Callable[[str], None]) -> bool:
    try:
        run(source)
    except RaceError:
        return False
    return True


def of_session(session: TwinSession, given: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """For each kernel of a plan, by what its name begins with, the lines that go unnoticed."""
    session.put(given)
    trace, found = Trace(), {}
    for launch in session.plan.launches:
        kernel = session.kernels[launch.kernel]
        before = {name: memory.copy() for name, memory in session.memory.items()}

        def run(source: str, kernel: CudaKernel = kernel, launch=launch, before=before) -> None:
            """The first launch of a plan must be able to follow another one as well."""
            early = kernel.source.count("griddep_wait()") > 0
            try:
                changed = replace(kernel, source=source)
                session.run(replace(launch, early=early), changed, trace.fork())
            finally:
                for name, memory in session.memory.items():
                    memory[...] = before[name]

        found[re.sub(r"_?[0-9].*", "", kernel.name)] = unnoticed(kernel.source, run)
        session.run(launch, kernel, trace)
    return found
