"""Kernel sources to machine code: compiled once, in parallel, and loaded from the cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fusec.codegen.cache import cache_root, content_key, digest_of_files, intact
from fusec.codegen.cpu.objects import load_object
from fusec.codegen.kernel import KernelSource
from fusec.codegen.pool import Progress, Task, compile_all
from fusec.cores import cores


def build(
    kernels: Sequence[KernelSource], progress: Progress | None = None
) -> dict[str, dict[str, int]]:
    """Kernel name -> address of each function its source defines (`kernel`, for emitted ones).

    `progress` is called with a kernel's name when it is ready. Raises FusecError naming the kernel
    that did not compile and the file its source is in.
    """
    entries = {k.name: cache_root() / "cpu" / content_key(k.source, toolchain()) for k in kernels}
    missing = []
    for kernel in kernels:
        if not intact(entries[kernel.name]):
            missing.append(kernel)
        elif progress:
            progress(kernel.name)
    compile_kernels(missing, entries, progress)
    return {
        name: {path.stem: load_object(path) for path in sorted(entry.glob("*.o"))}
        for name, entry in entries.items()
    }


def build_team() -> dict[str, int]:
    """Addresses of the thread team's loops, which are compiled and cached as kernels are."""
    source = (Path(__file__).parent / "team_loops.py").read_text()
    return build((KernelSource("team_loops", source, 0),))["team_loops"]


@cache
def toolchain() -> str:
    """Everything besides the source that the machine code depends on."""
    from importlib.metadata import version

    from llvmlite import binding

    support = digest_of_files(*support_files())
    features = binding.get_host_cpu_features().flatten()
    versions = f"{sys.version} {version('numba')} {version('llvmlite')}"
    return " ".join((versions, binding.get_host_cpu_name(), features, support))


def support_files() -> list[Path]:
    """What kernels' sources import and what compiles them."""
    here = Path(__file__).parent
    return [*sorted(here.glob("*.py")), *sorted((here.parent / "formats").glob("*.py"))]


def compile_kernels(
    kernels: Sequence[KernelSource], entries: dict[str, Path], progress: Progress | None = None
) -> None:
    """Compile kernels into their cache entries, in worker processes, one a core."""
    tasks = [Task(kernel.name, kernel.source, entries[kernel.name]) for kernel in kernels]
    compile_all("fusec.codegen.cpu.worker", tasks, cores(), progress)
