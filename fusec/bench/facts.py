"""What the numbers of a measurement depend on besides the model."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusec.backends import Backend
from fusec.cores import cores

PACKAGES = ("fusec", "numpy", "numba", "numba-cuda", "llvmlite", "cuda-bindings")


def machine(backend: Backend[Any, Any]) -> dict[str, Any]:
    """Hardware, driver, versions, commit, command."""
    return backend.machine() | {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "versions": {"python": platform.python_version()} | dict(installed(PACKAGES)),
        "commit": commit(),
        "command": " ".join(["fusec", *sys.argv[1:]]),
    }


def installed(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of those packages that are here."""
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def commit() -> str:
    """The commit of the source tree this runs from: FUSEC_COMMIT, or what git says."""
    if given := os.environ.get("FUSEC_COMMIT"):
        return given
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        run = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"
