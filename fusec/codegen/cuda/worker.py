"""The compiler of GPU kernels: runs in processes that `fusec.codegen.pool` starts.

A request also has the architecture and the kernel; the cubin comes to lie beside the source.
"""

from __future__ import annotations

from pathlib import Path

from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.build import write_entry
from fusec.codegen.cuda.toolchain import CudaKernel, compile_source
from fusec.codegen.serve import Request, serve


def compile_one(request: Request) -> None:
    """Compile what a request describes. Raises FusecError for what is not a kernel's source."""
    fields = request["kernel"]
    kernel = CudaKernel(**{**fields, "signature": tuple(fields["signature"])})
    folder = Path(request["folder"])
    source = folder / f"{kernel.name}.py"
    write_entry(folder, compile_source(kernel, find_arch(request["arch"]), source))


def main() -> None:
    """Serve until standard input closes."""
    serve(compile_one)
