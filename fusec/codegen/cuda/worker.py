"""`python -m fusec.codegen.cuda.worker`: compiles the kernels that standard input describes.

A line in is JSON: a folder with the source, the architecture, the kernel. A line out is JSON too:
null once the cubin lies in the folder, or the sentence that says why it does not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.build import write_entry
from fusec.codegen.cuda.toolchain import CudaKernel, compile_source
from fusec.errors import FusecError


def main() -> None:
    """Serve until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the compiler prints must not be taken for an answer
    for line in sys.stdin:
        request = json.loads(line)
        fields = request["kernel"]
        kernel = CudaKernel(**{**fields, "signature": tuple(fields["signature"])})
        folder = Path(request["folder"])
        answer = None
        try:
            path = str(folder / f"{kernel.name}.py")
            write_entry(folder, compile_source(kernel, find_arch(request["arch"]), path))
        except FusecError as error:
            answer = str(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
