"""Kernels to cubins: compiled once, in parallel processes, and taken from the cache afterwards.

A cache entry holds the source, the PTX, the cubin and ptxas's report of one kernel. Reading them
needs neither numba-cuda nor a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fusec.codegen.cache import cache_root, content_key, digest_of_files, intact
from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.imports import library_files
from fusec.codegen.cuda.toolchain import Cubin, CudaKernel, require_compiler, versions
from fusec.codegen.pool import Progress, Task, compile_all
from fusec.cores import cores

_REPORT = "report.json"


def compile_kernel(kernel: CudaKernel, arch: str) -> Cubin:
    """The cubin of one kernel for an architecture such as `sm_90a`."""
    return compile_many([kernel], arch)[0]


def compile_many(
    kernels: Sequence[CudaKernel],
    arch: str,
    progress: Progress | None = None,
    workers: int | None = None,
) -> list[Cubin]:
    """The cubins of several kernels, in order. `workers`: processes, one a core if not given.

    Raises FusecError for an unknown architecture, without the `cuda` extra, and naming the kernel
    that does not compile.
    """
    name = find_arch(arch).name
    entries = [entry_of(kernel, name) for kernel in kernels]
    loaded: dict[Path, Cubin] = {}
    missing: dict[Path, CudaKernel] = {}
    for kernel, entry in zip(kernels, entries, strict=True):
        if entry in loaded or entry in missing:
            continue
        if intact(entry):
            loaded[entry] = _load(entry)
            if progress:
                progress(kernel.name)
        else:
            missing[entry] = kernel
    if missing:
        require_compiler()
        _compile(missing, name, progress, workers or cores())
        loaded |= {entry: _load(entry) for entry in missing}
    return [loaded[entry] for entry in entries]


def cached(kernels: Sequence[CudaKernel], arch: str) -> dict[str, Cubin]:
    """Name -> cubin of those kernels that are in the cache; nothing is compiled."""
    entries = {kernel.name: entry_of(kernel, find_arch(arch).name) for kernel in kernels}
    return {name: _load(entry) for name, entry in entries.items() if intact(entry)}


def entry_of(kernel: CudaKernel, arch: str) -> Path:
    """The cache folder of a kernel: its key covers everything that decides the machine code."""
    support = digest_of_files(*support_files())
    key = content_key(json.dumps(asdict(kernel), sort_keys=True), arch, versions(), support)
    return cache_root() / "cuda" / key


def support_files() -> list[Path]:
    """What kernels' sources import and what compiles them; tables are the formats'."""
    here = Path(__file__).parent
    names = ("device", "imports", "instructions", "single_assignments", "toolchain")
    own = [here / f"{name}.py" for name in names]
    return [*own, *library_files(), *sorted((here.parent / "formats").glob("*.py"))]


def write_entry(entry: Path, cubin: Cubin) -> None:
    """Put what was compiled into a staging folder that holds the source already."""
    fields = asdict(cubin)
    (entry / f"{cubin.name}.cubin").write_bytes(fields.pop("data"))
    (entry / f"{cubin.name}.ptx").write_text(fields.pop("ptx"))
    (entry / _REPORT).write_text(json.dumps(fields, indent=1))


def _load(entry: Path) -> Cubin:
    report = json.loads((entry / _REPORT).read_text())
    name = report["name"]
    data = (entry / f"{name}.cubin").read_bytes()
    return Cubin(data=data, ptx=(entry / f"{name}.ptx").read_text(), **report)


def _compile(
    missing: dict[Path, CudaKernel], arch: str, progress: Progress | None, workers: int
) -> None:
    # longest first, so that no process starts the longest kernel last
    order = sorted(missing.items(), key=lambda item: len(item[1].source), reverse=True)
    tasks = [
        Task(kernel.name, kernel.source, entry, {"arch": arch, "kernel": asdict(kernel)})
        for entry, kernel in order
    ]
    compile_all("fusec.codegen.cuda.worker", tasks, workers, progress)
