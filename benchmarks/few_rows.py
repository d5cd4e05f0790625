"""A step of 2, 4 and 8 rows on a GPU, with each way to emit the feed-forward half's kernel.

    python benchmarks/few_rows.py MODEL.gguf [--context 512]

Prints JSON: microseconds of a step of one row, and for each way and number of rows those of a step,
those of the kernel alone (20 launches of it in a graph), and whether a row's logits have the bytes
of a step of one. See `fusec.codegen.cuda.row_prologues` for the ways.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from wide_steps import LAUNCHES, median_us, same_bytes, step_us

from fusec import load
from fusec.backends import get
from fusec.backends.cuda import Cuda, executable
from fusec.codegen.cuda.arch import native_arch
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.parts_sizes import EXCHANGED, TEAMS
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.session import CudaSession

ROWS = (2, 4, 8)
CHOICES = ((8, 4), (16, 2))  # warps, and elements of each
WAYS = (TEAMS, EXCHANGED)


def kernels_of(session: CudaSession) -> list[Kernel]:
    """Those of the feed-forward half, of plans for so many rows."""
    plans = [session._plans[session._variant(rows)] for rows in ROWS]
    kernels = {k.name: k for plan in plans for k in plan.kernels}
    return [k for k in kernels.values() if "matvec_parts" in k.region and k.rows > 1]


def emitted(kernels: list[Kernel], way: str, sizes: tuple[int, int]) -> list[CudaKernel]:
    """The kernels in one of the ways."""
    choice = Choice(*sizes, release="read", way=way)
    return [emit(replace(kernel, choice=choice), native_arch()) for kernel in kernels]


def alone_us(engine: CudaEngine, rows: int, names: set[str]) -> float:
    """Microseconds of one launch of the kernel for so many rows, the slowest of several."""
    found, stream, replay = [], engine.workspace.stream, engine.workspace.driver.replay
    bound = {kernel: pointers for kernel, pointers, *_ in engine.absorb._prepare(rows)}
    for name in bound.keys() & names:

        def enqueue(name: str = name) -> None:
            for _ in range(LAUNCHES):
                engine.workspace.launch(name, bound[name], rows=rows)

        graph = engine.workspace.capture(enqueue)
        found.append(median_us(engine, lambda graph=graph: replay(graph, stream), 2) / LAUNCHES)
    return round(max(found), 2)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--context", type=int, default=512)
    given = parser.parse_args()
    Cuda.between_tokens = (ROWS[-1], *Cuda.between_tokens[1:])
    engine = load(given.model, "native", 3, given.context)
    assert isinstance(engine, CudaEngine)
    ids = np.random.default_rng(5).integers(0, engine.vocabulary, ROWS[-1]).tolist()
    result: dict[str, Any] = {**get("native").machine(), "model": given.model.name}
    result["one_us"] = round(step_us(engine, engine.decode, ids[:1]), 1)
    for rows in ROWS:
        engine.absorb._prepare(rows)
    kernels = kernels_of(engine.absorb)
    ways = list(product(WAYS, CHOICES))
    made = [emitted(kernels, *way) for way in ways]
    cubins = iter(compile_many([kernel for way in made for kernel in way], native_arch().name))
    for (how, sizes), way in zip(ways, made, strict=True):
        registers = {}
        for kernel in way:
            cubin = next(cubins)
            registers[kernel.rows] = cubin.registers
            engine.workspace.add(executable(kernel, cubin))
        for session in (engine.absorb, engine.prefill):
            session._graphs.clear()
        name = f"{how}, {sizes[0]} warps"
        names = {kernel.name for kernel in way}
        result[name] = {
            rows: {
                "step_us": round(step_us(engine, engine.absorb, ids[:rows]), 1),
                "alone_us": alone_us(engine, rows, names),
                "registers": registers[rows],
            }
            for rows in ROWS
        }
        result[name]["same_bytes"] = same_bytes(engine, ids)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
