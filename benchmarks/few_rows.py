"""A step of 1, 2, 4 and 8 rows on a GPU, with each way to emit the feed-forward half's kernel.

    python benchmarks/few_rows.py MODEL.gguf [--context 512]

Prints JSON: microseconds of a step as fusec takes it, and for each way and number of rows those of
a step, those of the kernel alone (20 launches of it in a graph), its registers, and whether rows
have the bytes that they had before. For the ways see `fusec.codegen.cuda.row_prologues` and `HELD`
in `parts_of_rows`; a step of one row has fragments in all of them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from wide_steps import LAUNCHES, median_us, step_us

from fusec import load
from fusec.backends import get
from fusec.backends.cuda import Cuda, executable
from fusec.codegen.cuda import parts_of_rows, parts_sizes
from fusec.codegen.cuda.arch import native_arch
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.ir.plan import Choice, Kernel
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.session import CudaSession

ROWS = (1, 2, 4, 8)
CHOICES = ((8, 4), (16, 2))  # warps, and elements of each
HELD = (0, 64)  # registers with weights
NEVER = 99


def session_of(engine: CudaEngine, rows: int) -> CudaSession:
    """What takes a step of so many rows."""
    return engine.decode if rows == 1 else engine.absorb


def kernels_of(engine: CudaEngine) -> list[Kernel]:
    """Those of the feed-forward half, of plans for so many rows."""
    found = {}
    for rows in ROWS:
        session = session_of(engine, rows)
        session._prepare(rows)
        plan = session._plans[session._variant(rows)]
        found |= {k.name: k for k in plan.kernels if "matvec_parts" in k.region}
    return list(found.values())


def emitted(
    kernels: list[Kernel], exchanged: bool, sizes: tuple[int, int], held: int
) -> list[CudaKernel]:
    """The kernels in one of the ways."""
    parts_of_rows.HELD = held
    parts_sizes.EXCHANGED_FROM = 2 if exchanged else NEVER
    choice = Choice(*sizes, release="read", fragments=True)
    return [emit(replace(kernel, choice=choice), native_arch()) for kernel in kernels]


def alone_us(engine: CudaEngine, rows: int, names: set[str]) -> float:
    """Microseconds of one launch of the kernel for so many rows, the slowest of several."""
    found, stream, replay = [], engine.workspace.stream, engine.workspace.driver.replay
    bound = {kernel: pointers for kernel, pointers, *_ in session_of(engine, rows)._prepare(rows)}
    for name in bound.keys() & names:

        def enqueue(name: str = name) -> None:
            for _ in range(LAUNCHES):
                engine.workspace.launch(name, bound[name], rows=rows)

        graph = engine.workspace.capture(enqueue)
        found.append(median_us(engine, lambda graph=graph: replay(graph, stream), 2) / LAUNCHES)
    return round(max(found), 2)


def timed(engine: CudaEngine, ids: list[int], names: set[str]) -> dict[int, dict[str, float]]:
    """Rows -> what a step of them takes, and the kernel."""
    for session in (engine.decode, engine.absorb, engine.prefill):
        session._graphs.clear()  # they have the kernels of before
    return {
        rows: {
            "step_us": round(step_us(engine, session_of(engine, rows), ids[:rows]), 1),
            "alone_us": alone_us(engine, rows, names),
        }
        for rows in ROWS
    }


def logits_of(engine: CudaEngine, ids: list[int]) -> bytes:
    """Of steps of one row, and of one of all of them."""
    engine.reset()
    single = b"".join(engine.step(token).tobytes() for token in ids)
    return single + engine.logits(ids).tobytes()


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
    wanted, kernels = logits_of(engine, ids), kernels_of(engine)
    names = {kernel.name for kernel in kernels}
    result["as it is"] = timed(engine, ids, names)
    ways = list(product((False, True), CHOICES, HELD))
    made = [emitted(kernels, *way) for way in ways]
    cubins = iter(compile_many([kernel for way in made for kernel in way], native_arch().name))
    for (exchanged, sizes, held), way in zip(ways, made, strict=True):
        registers = {}
        for kernel in way:
            cubin = next(cubins)
            registers[max(1, kernel.rows)] = cubin.registers
            engine.workspace.add(executable(kernel, cubin))
        found = timed(engine, ids, names)
        name = f"{'exchanged' if exchanged else 'teams'}, {sizes[0]} warps, {held} held"
        result[name] = {n: {**found[n], "registers": registers[n]} for n in ROWS}
        result[name]["same_bytes"] = logits_of(engine, ids) == wanted
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
