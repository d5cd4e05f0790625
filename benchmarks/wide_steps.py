"""Steps of many rows on a GPU: their time by rows, that of each kernel, and whether bytes agree.

    python benchmarks/wide_steps.py MODEL.gguf [-O 3] [--context 2048] [--rows 1,16,512]
        [--alone 4,16,512] [--few 8] [--all-shared] [--disable PASS ...]

Prints JSON. A step is a prompt's: no logits are made, but for those of a few rows, once more. Times
are medians of graphs launched back to back, in microseconds. A kernel's is that of 20 launches of
it alone in a graph, for steps of so many rows as `--alone` says, so that the sum of all is more
than the step takes where launches overlap. `--few`: up to how many rows a step goes through the
kernels of a step of one; it is up to the GPU's backend where it is left out. With
`--rows 1,2,3,4,5,8` no kernel for more is compiled. `--all-shared`: SMs are to have all of their
shared memory for every kernel, not only for those that take some when they are launched.
`--disable`: passes to leave out.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fusec import load
from fusec.backends import get
from fusec.backends.cuda import Cuda
from fusec.runtime.cuda.driver import Driver
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.session import CudaSession

ROWS = (1, 2, 3, 4, 5, 8, 16, 17, 32, 33, 64, 65, 128, 256, 511, 512)
WITH_LOGITS = 32  # rows, at most, of steps that are timed with their logits too
COMPARED = 80  # rows, at most, that are compared with steps of one
REPEATS, LAUNCHES = 5, 20


def median_us(engine: CudaEngine, run: Callable[[], None], times: int) -> float:
    """Microseconds of one of `times` runs in a row."""
    driver, stream = engine.workspace.driver, engine.workspace.stream
    run()
    found = []
    for _ in range(REPEATS):
        start, end = driver.event(), driver.event()
        driver.record(start, stream)
        for _ in range(times):
            run()
        driver.record(end, stream)
        driver.synchronize(stream)
        found.append(1e6 * driver.seconds_between(start, end) / times)
    return statistics.median(found)


def step_us(engine: CudaEngine, session: CudaSession, ids: list[int]) -> float:
    """Microseconds of a step of these tokens from position 0 on."""
    session.begin(token=np.array(ids, np.int32), pos=np.arange(len(ids), dtype=np.int32))
    return median_us(engine, lambda: session.run(len(ids)), 10)


def kernels_us(engine: CudaEngine, session: CudaSession, ids: list[int]) -> dict[str, Any]:
    """Name -> launches of a step of these tokens, and microseconds of one."""
    rows = len(ids)
    session.begin(token=np.array(ids, np.int32), pos=np.arange(rows, dtype=np.int32))
    launches = session._prepare(rows)
    counts = Counter(kernel for kernel, *_ in launches)
    pointers = {kernel: given for kernel, given, *_ in reversed(launches)}
    driver, stream = engine.workspace.driver, engine.workspace.stream
    found = {}
    for kernel, count in counts.items():

        def enqueue(kernel: str = kernel) -> None:
            for _ in range(LAUNCHES):
                engine.workspace.launch(kernel, pointers[kernel], rows=rows)

        graph = engine.workspace.capture(enqueue)
        us = median_us(engine, lambda graph=graph: driver.replay(graph, stream), 2) / LAUNCHES
        found[kernel] = {"launches": count, "us": round(us, 2)}
    return found


def same_bytes(engine: CudaEngine, ids: list[int]) -> bool:
    """Whether rows of a wide step have the logits of steps of one."""
    engine.reset()
    single = np.stack([engine.step(token) for token in ids[:COMPARED]])
    return bool(engine.logits(ids)[:COMPARED].tobytes() == single.tobytes())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-O", "--level", type=int, default=3)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--alone", default="4,16,512")
    parser.add_argument("--few", type=int, default=Cuda.between_tokens[0])
    parser.add_argument("--all-shared", action="store_true")
    parser.add_argument("--disable", nargs="*", default=[])
    given = parser.parse_args()
    if given.all_shared:
        Driver.takes_all_shared = staticmethod(lambda _: True)  # type: ignore[method-assign]
    Cuda.between_tokens = (given.few, *Cuda.between_tokens[1:])
    rows, alone = ([int(n) for n in text.split(",")] for text in (given.rows, given.alone))
    engine = load(given.model, "native", given.level, given.context, disable=given.disable)
    assert isinstance(engine, CudaEngine)
    ids = np.random.default_rng(5).integers(0, engine.vocabulary, max(rows)).tolist()
    result: dict[str, Any] = {**get("native").machine(), "model": given.model.name}
    result["same_bytes"] = same_bytes(engine, ids)
    result["decode_us"] = round(step_us(engine, engine.decode, ids[:1]), 1)
    result["rows_us"] = {n: round(step_us(engine, engine.absorb, ids[:n]), 1) for n in rows}
    some = [n for n in rows if n <= WITH_LOGITS]
    result["logits_us"] = {n: round(step_us(engine, engine.prefill, ids[:n]), 1) for n in some}
    alone = [n for n in alone if n in rows]
    result["kernels"] = {n: kernels_us(engine, engine.absorb, ids[:n]) for n in alone}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
