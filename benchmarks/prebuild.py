"""Compile every kernel that measuring a model on a GPU needs into the cache, without that GPU.

python benchmarks/prebuild.py MODEL.gguf --target sm_90a --levels 0,1,2
"""

from __future__ import annotations

import argparse

from fusec import driver
from fusec.codegen.cuda import microbench, probe
from fusec.codegen.cuda.build import compile_many


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--target", default="sm_90a")
    options.add_argument("--levels", default="0,1,2")
    given = options.parse_args()
    measuring = [*microbench.kernels(given.target).values(), probe.read(), *probe.stamps()]
    compile_many(measuring, given.target)
    for level in given.levels.split(","):
        cubins = driver.compile(given.model, target=given.target, level=int(level)).build()
        print(f"-O{level}: {len(cubins)} kernels")


if __name__ == "__main__":
    main()
