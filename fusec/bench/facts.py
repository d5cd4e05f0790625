"""What the numbers of a measurement depend on besides the model."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusec.backends import Backend
from fusec.compiled import Compilation
from fusec.cores import cores
from fusec.version import __version__

VERSION = 1  # of what profiles are written as
PACKAGES = ("numpy", "numba", "numba-cuda", "llvmlite", "cuda-bindings")


def machine(backend: Backend[Any, Any]) -> dict[str, Any]:
    """Hardware, driver, versions, commit, command."""
    return backend.machine() | {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "versions": {"fusec": __version__, "python": platform.python_version()}
        | dict(installed(PACKAGES)),
        "commit": commit(),
        "command": " ".join(["fusec", *sys.argv[1:]]),
    }


def facts_of(compiled: Compilation, threads: int) -> dict[str, Any]:
    """What was measured, where and when."""
    plan = compiled.plan
    return {
        "version": VERSION,
        **machine(compiled.backend),
        "date": datetime.date.today().isoformat(),
        "model": Path(compiled.model.file.path).stem if compiled.model else plan.name,
        "target": plan.target,
        "level": plan.level,
        "threads": compiled.backend.threads(threads),
    }


def installed(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of those packages that are here."""
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def commit() -> str:
    """The commit of fusec's own source tree: FUSEC_COMMIT, or what git says where it is a checkout.

    An installed package may lie in somebody else's checkout, whose commit says nothing.
    """
    if given := os.environ.get("FUSEC_COMMIT"):
        return given
    here = Path(__file__).resolve().parents[1]
    git = ("git", "-C", str(here))
    try:
        if not _output([*git, "ls-files", "--error-unmatch", "__init__.py"]):
            return "unknown"
        return _output([*git, "describe", "--always", "--dirty", "--abbrev=12"]) or "unknown"
    except OSError:  # no git
        return "unknown"


def _output(command: list[str]) -> str:
    """What a command prints; nothing if it fails. Git's own variables are for another tree."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    run = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else ""
