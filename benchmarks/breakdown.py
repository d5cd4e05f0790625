"""The time of one token, launch by launch, by leaving kernels out of the captured graph.

    python benchmarks/breakdown.py MODEL.gguf [-O 3] [--position 16] [--disable PASS ...]
        [--json FILE]

A kernel's share is what the token takes with all its launches less what it takes without them,
divided by their number: the boundary and everything the launch behind has to wait for count. What
is left over is what all of them hide of one another. Numbers computed meanwhile mean nothing.
Weights are not fetched ahead here (`--l2 off`).
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

from fusec import Sampling, load
from fusec.ir.plan import Arg
from fusec.runtime.cuda.engine import CudaEngine

TOKENS = 64
REPEATS = 7
CONTROL = "feed"  # not advance: tokens come from the prompt, whatever is left out


def token_us(engine: CudaEngine, enqueue: Callable[[], None], prompt: list[int]) -> float:
    """Microseconds a token, the median of several runs over the same positions."""
    workspace, loop = engine.workspace, engine.loop
    driver, stream = workspace.driver, workspace.stream
    graph = workspace.capture(enqueue)
    times = []
    for _ in range(REPEATS):
        loop.start(prompt, Sampling())
        workspace.write(Arg("input", "%pos"), np.array([len(prompt) - TOKENS - 1], np.int32))
        start, end = driver.event(), driver.event()
        driver.record(start, stream)
        for _ in range(TOKENS):
            driver.replay(graph, stream)
        driver.record(end, stream)
        driver.synchronize(stream)
        times.append(1e6 * driver.seconds_between(start, end) / TOKENS)
    return statistics.median(times[1:])


def breakdown(engine: CudaEngine, position: int) -> dict[str, Any]:
    """Token time, and for every kernel its launches a token and their share of it.

    What stands for the launch that ends a greedy token, CONTROL, chooses nothing.
    """
    workspace, plan = engine.workspace, engine.loop.greedy.plan
    addresses = [tuple(workspace.address(arg) for arg in launch.args) for launch in plan.launches]
    prompt = [1] * (position + TOKENS + 1)

    def without(kernel: str) -> Callable[[], None]:
        def enqueue() -> None:
            front = ""
            for launch, pointers in zip(plan.launches, addresses, strict=True):
                if launch.kernel != kernel:
                    workspace.launch(launch.kernel, pointers, launch.early and bool(front))
                    front = launch.kernel
            if kernel != CONTROL:
                engine.loop.enqueue_control(CONTROL)

        return enqueue

    whole = token_us(engine, without(""), prompt)
    counts = Counter(launch.kernel for launch in plan.launches) | Counter({CONTROL: 1})
    rows = []
    for kernel, count in counts.items():
        saved = whole - token_us(engine, without(kernel), prompt)
        rows.append({"kernel": kernel, "launches": count, "us": round(saved / count, 3)})
    return {"token_us": round(whole, 2), "level": plan.level, "kernels": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="the time of one token, launch by launch")
    parser.add_argument("model", type=Path)
    parser.add_argument("-O", "--level", type=int, default=3)
    parser.add_argument("--position", type=int, default=16, help="tokens in front")
    parser.add_argument("--context", type=int)
    parser.add_argument("--disable", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    given = {"context": options.context, "disable": options.disable}
    engine = load(options.model, "native", options.level, **given)
    assert isinstance(engine, CudaEngine)
    found = breakdown(engine, options.position)
    engine.close()
    print(f"-O{found['level']}: {found['token_us']} us a token from position {options.position}")
    for row in found["kernels"]:
        share = row["us"] * row["launches"]
        print(f"{row['us']:8.3f} us x {row['launches']:3} = {share:7.1f}  {row['kernel']}")
    left = found["token_us"] - sum(r["us"] * r["launches"] for r in found["kernels"])
    print(f"{left:27.1f}  overlapped or between tokens")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
