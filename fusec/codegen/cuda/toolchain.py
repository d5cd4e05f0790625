"""Kernel source to cubin, for a named architecture, with or without a GPU in the machine.

    source (Python) --numba-cuda, libNVVM--> PTX --ptxas--> cubin

This module alone calls numba-cuda's compiler, so that it can be exchanged. Importing it is cheap:
numba-cuda is loaded by the first kernel that is compiled here. `build.py` adds the cache on disk
and the parallel processes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import linecache
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fusec.codegen.cuda.arch import Arch, missing_extra
from fusec.codegen.cuda.single_assignments import found_in_one_pass
from fusec.errors import FusecError
from fusec.ir.plan import Size
from fusec.writer import brief, count

_PACKAGES = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-cuda-nvcc")


@dataclass(frozen=True)
class CudaKernel:
    """One kernel to compile.

    `source` is a Python module that defines the function `name`; `signature` types its arguments:
    `f32* u64* u32* u16* u8*` for pointers, `f32 u32 s32 u64` for scalars. `threads` is the block
    size the kernel is launched with, `min_blocks` how many blocks should fit one SM;
    together they bound the registers, unless `registers` does, where it is not 0. `grid`: how many
    blocks it is launched with, of which each `cluster` in a row exchange through shared memory.
    `shared`: bytes of shared memory that it declares for each block, `dynamic`: that a launch adds.
    `rows`: of a step of several, how many a layer of blocks takes, of which the grid has `spare`
    more than that.
    """

    name: str
    source: str
    signature: tuple[str, ...]
    threads: int
    min_blocks: int = 1
    grid: int = 1
    cluster: int = 1
    registers: int = 0
    dynamic: int = 0
    shared: int = 0
    rows: int = 0
    spare: int = 0

    def __repr__(self) -> str:
        lines = count(len(self.source.splitlines()), "line")
        return brief(self, f"{self.name}: {lines}, {self.size}")

    @property
    def size(self) -> Size:
        """How a launch of it is run."""
        return Size(self.grid, self.threads, self.cluster, self.shared, self.dynamic)


@dataclass(frozen=True)
class Cubin:
    """A compiled kernel: machine code under the symbol `name`, and what ptxas said about it."""

    name: str
    arch: str
    data: bytes
    ptx: str
    registers: int
    spill_stores: int  # bytes
    spill_loads: int  # bytes
    static_shared: int  # bytes

    def __repr__(self) -> str:
        registers = count(self.registers, "register")
        return brief(self, f"{self.name}: {self.arch}, {len(self.data):,} bytes, {registers}")


def compile_source(kernel: CudaKernel, arch: Arch, path: Path | None = None) -> Cubin:
    """Compile in this process, without the cache.

    `path`: where the source lies, for messages, and beside which the assembler's files may lie.
    """
    ptx, place = _to_ptx(kernel, arch, path), path.parent if path else None
    cubin = _assemble(kernel.name, ptx, arch, place)
    if cubin.spill_stores and (roomier := _with_room(ptx)) != ptx:
        other = _assemble(kernel.name, roomier, arch, place)
        return other if other.spill_stores < cubin.spill_stores else cubin
    return cubin


def _with_room(ptx: str) -> str:
    """The kernel with as many registers as one block can have on an SM.

    Where fewer are asked for, so that more blocks or the next launch's find room, that must not
    cost spills: ptxas decides by a hair, and differently for a few more columns.
    """
    return re.sub(r"^\.(minnctapersm|maxnreg) .*", ".minnctapersm 1", ptx, flags=re.MULTILINE)


def _to_ptx(kernel: CudaKernel, arch: Arch, path: Path | None) -> str:
    """The kernel as PTX under its own name, multiplications and additions left as written."""
    from numba.cuda import dispatcher, types
    from numba.cuda.compiler import compile_cuda, kernel_fixup
    from numba.cuda.cudadrv import nvvm

    scalars = {
        "f32": types.float32,
        "u8": types.uint8,
        "u16": types.uint16,
        "u32": types.uint32,
        "s32": types.int32,
        "u64": types.uint64,
    }
    arguments = tuple(
        types.CPointer(scalars[kind[:-1]]) if kind.endswith("*") else scalars[kind]
        for kind in kernel.signature
    )
    options = {"opt": 3, "fma": 0}
    # what `device.inline` marks is typed for "the GPU here", of which there may be none
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=arch.cc)
    try:
        function = _load_function(kernel, path)
        with found_in_one_pass():
            compiled = compile_cuda(
                function, types.void, arguments, nvvm_options=options, cc=arch.cc
            )
    except Exception as error:  # many kinds; each means that the source is not what Numba takes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:3]) or repr(error)
        raise FusecError(
            f"kernel {kernel.name}: numba-cuda refused the source: {reason}"
        ) from error
    symbol = compiled.fndesc.llvm_func_name
    library = compiled.library
    entry = library.get_function(symbol)
    library._entry_name = symbol
    kernel_fixup(entry, False)
    nvvm.set_launch_bounds(entry, (kernel.threads, kernel.min_blocks))
    (ptx,) = library.get_asm_strs(cc=arch.cc)
    return _directed(canonical(ptx, symbol, kernel.name), kernel)


def _load_function(kernel: CudaKernel, path: Path | None) -> Callable[..., Any]:
    """Execute the source; register it with `linecache` so that messages can quote it."""
    filename = str(path or f"<kernel {kernel.name}>")
    lines = kernel.source.splitlines(keepends=True)
    linecache.cache[filename] = (len(kernel.source), None, lines, filename)
    namespace: dict[str, Any] = {"__name__": f"fusec_kernel_{kernel.name}"}
    exec(compile(kernel.source, filename, "exec"), namespace)
    function: Callable[..., Any] = namespace[kernel.name]
    return function


def canonical(ptx: str, symbol: str, name: str) -> str:
    """PTX whose text depends on the kernel alone.

    Numba's mangled symbol carries a counter of the process, and its environment variable serves
    exceptions, which kernels do not raise.
    """
    ptx = re.sub(r"^\.common \.global [^\n]*NumbaEnv[^\n]*\n", "", ptx, flags=re.MULTILINE)
    ptx = ptx.replace(symbol, name)
    return re.sub(r"^//[^\n]*\n", "", ptx, flags=re.MULTILINE).lstrip("\n")


def _directed(ptx: str, kernel: CudaKernel) -> str:
    """The kernel with the directives that libNVVM does not write.

    With its cluster's size in the code, no launch has to give it.
    """
    if kernel.cluster > 1:
        size = f".explicitcluster\n.reqnctapercluster {kernel.cluster}, 1, 1\n"
        ptx = re.sub(r"^\.maxntid .*\n", lambda found: found[0] + size, ptx, flags=re.MULTILINE)
    if kernel.registers:
        most = f".maxnreg {kernel.registers}"
        ptx = re.sub(r"^\.minnctapersm .*", most, ptx, flags=re.MULTILINE)
    return ptx


def _assemble(name: str, ptx: str, arch: Arch, place: Path | None) -> Cubin:
    ptxas = find_ptxas()
    if ptxas is None:
        raise missing_extra()
    with tempfile.TemporaryDirectory(prefix="fusec-", dir=place) as folder:
        source, output = Path(folder, f"{name}.ptx"), Path(folder, f"{name}.cubin")
        source.write_text(ptx)
        command = [ptxas, "-v", f"-arch={arch.name}", str(source), "-o", str(output)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        report = run.stderr + run.stdout
        if run.returncode != 0:
            shown = "; ".join(report.replace(f"{folder}/", "").strip().splitlines()[:3])
            raise FusecError(f"kernel {name}: ptxas failed for {arch.name}: {shown}")
        data = output.read_bytes()

    def number(pattern: str) -> int:
        found = re.search(pattern, report)
        return int(found.group(1)) if found else 0

    return Cubin(
        name,
        arch.name,
        data,
        ptx,
        registers=number(r"Used (\d+) registers"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
        static_shared=number(r"(\d+) bytes smem"),
    )


def require_compiler() -> None:
    """Refuse, in one sentence, to compile on a machine without the CUDA packages."""
    if importlib.util.find_spec("numba_cuda") is None or find_ptxas() is None:
        raise missing_extra()


@functools.cache
def find_ptxas() -> str | None:
    """The assembler: the one beside the Python packages, else the first on PATH."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for candidate in sorted(Path(folder).glob("cu*/bin/ptxas")):
            return str(candidate)
    return shutil.which("ptxas")


@functools.cache
def versions() -> str:
    """The tools that decide the machine code, and their versions."""
    found = [f"python {sys.version}"]  # Numba reads bytecode
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} none")
    return ", ".join([*found, find_ptxas() or "no ptxas", *_release_of_ptxas()])


def _release_of_ptxas() -> list[str]:
    """What the assembler says of itself, where no package's version stands for it."""
    ptxas = find_ptxas()
    if ptxas is None or ptxas != shutil.which("ptxas"):
        return []
    run = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[-1:]
