"""Run something with more rows of a step in the kernels of a step of one, instead of in tiles.

    python benchmarks/with_few.py 16 fusec bench MODEL.gguf --target native --draft auto -n 256
    python benchmarks/with_few.py 16 benchmarks/wide_steps.py MODEL.gguf --few 16 --rows 8,16

`fusec.codegen.cuda.rows` has the limit, 8 rows, for all matrices that are not large. Bytes are the
same either way. To see what another limit would give. From 16 on, attention that makes its head's
rows (as Qwen3's) is refused: a block has no warp for each of them.

What is kept of a model's plans does not say which limit they were made with: give each limit a
FUSEC_CACHE_DIR of its own.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from fusec.backends import cuda
from fusec.codegen.cuda import head_prologue, rows


def set_few(most: int) -> None:
    """Steps of up to so many rows go through these kernels."""
    rows.MANY = cuda.MANY = most + 1
    rows.TOGETHER = cuda.TOGETHER = head_prologue.MOST_ROWS = most
    cuda.Cuda.between_tokens = (most, *cuda.Cuda.between_tokens[1:])


def main() -> None:
    """Set the limit, and go on as what was named."""
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit("usage: python benchmarks/with_few.py ROWS fusec|FILE.py ...")
    set_few(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    if sys.argv[0] == "fusec":
        runpy.run_module("fusec", run_name="__main__")
    else:
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
