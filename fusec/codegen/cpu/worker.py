"""`python -m fusec.codegen.cpu.worker`: compiles the sources named on standard input.

A line in is the path of a staged source. Every `cfunc` it defines becomes an object file beside it,
`<function>.o`; then a line goes out, empty, or holding the reason why not. Compiling in processes
of their own uses all cores and leaves the compiler's memory behind.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from numba.core.ccallback import CFunc

from fusec.codegen.cpu.objects import emit_object


def compile_file(path: Path) -> None:
    """Write the object files of one source."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, member in vars(module).items():
        if isinstance(member, CFunc):
            (path.parent / f"{name}.o").write_bytes(emit_object(member))


def main() -> None:
    """Serve until standard input closes."""
    for line in sys.stdin:
        try:
            compile_file(Path(line.rstrip("\n")))
            print(flush=True)
        except Exception as error:
            first = (str(error).strip() or "no message").splitlines()[0]
            print(f"{type(error).__name__}: {first}", flush=True)


if __name__ == "__main__":
    main()
