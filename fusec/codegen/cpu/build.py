"""Kernel sources to machine code: compiled once, in parallel, and loaded from the cache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue

from fusec.codegen.cache import (
    cache_root,
    content_key,
    digest_of_files,
    intact,
    publish,
    stage,
)
from fusec.codegen.cpu.objects import load_object
from fusec.codegen.kernel import KernelSource
from fusec.cores import cores
from fusec.errors import FusecError

Progress = Callable[[str], None]


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

    here = Path(__file__).parent
    support = digest_of_files(*here.glob("*.py"), *(here.parent / "formats").glob("*.py"))
    features = binding.get_host_cpu_features().flatten()
    versions = f"{sys.version} {version('numba')} {version('llvmlite')}"
    return " ".join((versions, binding.get_host_cpu_name(), features, support))


def compile_kernels(
    kernels: Sequence[KernelSource], entries: dict[str, Path], progress: Progress | None = None
) -> None:
    """Compile kernels into their cache entries, in worker processes, one a core."""
    if not kernels:
        return
    todo: SimpleQueue[KernelSource | None] = SimpleQueue()
    count = min(len(kernels), cores())
    for item in [*kernels, *[None] * count]:
        todo.put(item)
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(_serve, todo, entries, progress) for _ in range(count)]:
            future.result()


def _serve(
    todo: SimpleQueue[KernelSource | None], entries: dict[str, Path], progress: Progress | None
) -> None:
    """Feed one worker process until the queue ends."""
    command = [sys.executable, "-m", "fusec.codegen.cpu.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin and worker.stdout and worker.stderr
        while (kernel := todo.get()) is not None:
            staging = stage(entries[kernel.name])
            path = staging / f"{kernel.name}.py"
            path.write_text(kernel.source)
            try:
                worker.stdin.write(f"{path}\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if not answer:
                last = worker.stderr.read().strip().splitlines()[-1:] or ["no message"]
                raise FusecError(f"kernel {kernel.name}: the compiler process died: {last[0]}")
            if reason := answer.strip():
                raise FusecError(f"kernel {kernel.name} does not compile ({path}): {reason}")
            publish(staging, entries[kernel.name])
            if progress:
                progress(kernel.name)
