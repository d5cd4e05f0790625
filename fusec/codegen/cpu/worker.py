"""The compiler of CPU kernels: runs in processes that `fusec.codegen.pool` starts.

Every `cfunc` that a staged source defines becomes an object file beside it, `<function>.o`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from numba.core.ccallback import CFunc

from fusec.codegen.cpu.objects import emit_object, leave_unloaded
from fusec.codegen.serve import Request, serve
from fusec.errors import FusecError


def compile_file(path: Path) -> None:
    """Write the object files of one source."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, member in vars(module).items():
        if isinstance(member, CFunc):
            (path.parent / f"{name}.o").write_bytes(emit_object(member))


def compile_one(request: Request) -> None:
    """Compile what a request names. Raises FusecError for what is not a kernel's source."""
    name = request["name"]
    path = Path(request["folder"], f"{name}.py")
    try:
        compile_file(path)
    except OSError:
        raise
    except Exception as error:  # many kinds; each means that the source is not what Numba takes
        first = (str(error).strip() or "no message").splitlines()[0]
        raise FusecError(
            f"kernel {name} does not compile ({path}): {type(error).__name__}: {first}"
        ) from error


def main() -> None:
    """Serve until standard input closes."""
    leave_unloaded()
    serve(compile_one)
