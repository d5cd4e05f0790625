"""`python -m fusec.codegen.cpu.worker`: compiles the kernel files named on standard input.

A line in is the path of a staged source. When Numba's own cache beside it holds the machine code, a
line out is empty; else it is the reason. Compiling in processes of their own uses all cores and
leaves the compiler's memory behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fusec.codegen.cpu.build import import_kernel


def main() -> None:
    """Serve until standard input closes."""
    for line in sys.stdin:
        try:
            import_kernel(Path(line.rstrip("\n")))
            print(flush=True)
        except Exception as error:
            first = (str(error).strip() or "no message").splitlines()[0]
            print(f"{type(error).__name__}: {first}", flush=True)


if __name__ == "__main__":
    main()
