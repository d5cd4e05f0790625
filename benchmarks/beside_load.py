"""Tokens a second of CPU decoding beside processes that keep cores busy.

    python benchmarks/beside_load.py MODEL.gguf [--cores 2] [--busy 0,1,2] [--runs 5] [--run 1.0]
        [--seconds 120] [--threads N] [--tree OTHER_CHECKOUT ...] [--json FILE]

Everything is pinned to the same cores. A run is --run seconds of greedy decoding; runs with each
number of busy processes, and of each source tree, take turns, so that what else the machine does
meets all of them. `others` is the share of those cores that neither the decoding nor the busy
processes had nor left idle: a ratio of runs on a quiet machine has next to nothing there.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

SETTLE_SECONDS = 0.2  # for the scheduler to place processes that begin
BUSY = "while True: pass"
CHILD = "--child"
POSITIONS = 256


def child(model: str, threads: int) -> None:
    """Decode for as many seconds as a line of input says; print tokens a second, and the best."""
    import fusec

    engine = fusec.load(model, context=POSITIONS, threads=threads)
    engine.stop = frozenset()
    for line in chain(["0.2"], sys.stdin):
        engine.reset()
        token, made = 1, [time.perf_counter()]
        while made[-1] - made[0] < float(line):
            if engine.position == POSITIONS:
                engine.reset()
            token = int(engine.step(token).argmax())
            made.append(time.perf_counter())
        best = min(after - before for before, after in pairwise(made))
        print((len(made) - 1) / (made[-1] - made[0]), 1 / best, flush=True)


def ticks(pid: int) -> int:
    """User and system time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def worked(cores: list[int]) -> int:
    """Clock ticks that cores have not been idle."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    found = [list(map(int, f[1:9])) for f in lines if f[0] in {f"cpu{core}" for core in cores}]
    return sum(sum(times) - times[3] - times[4] for times in found)


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(SETTLE_SECONDS)
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def start(tree: Path, model: Path, threads: int) -> subprocess.Popen[str]:
    """A child that decodes with the sources of one tree."""
    found = subprocess.Popen(
        [sys.executable, __file__, str(model), "--threads", str(threads), CHILD],
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert found.stdout
    found.stdout.readline()  # loaded, and warm
    return found


def measure(
    decoding: subprocess.Popen[str], count: int, cores: list[int], seconds: float
) -> dict[str, float]:
    """One run: tokens a second, and the share of the cores that others had."""
    assert decoding.stdin and decoding.stdout
    with busy(count) as pids:
        known = [decoding.pid, *pids]
        began, before = time.perf_counter(), worked(cores) - sum(map(ticks, known))
        decoding.stdin.write(f"{seconds}\n")
        decoding.stdin.flush()
        speed, best = map(float, decoding.stdout.readline().split())
        others = worked(cores) - sum(map(ticks, known)) - before
        all_ticks = (time.perf_counter() - began) * os.sysconf("SC_CLK_TCK") * len(cores)
    return {"tok_s": speed, "best": best, "others": max(0.0, others / all_ticks)}


def summary(runs: dict[int, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each number of busy processes: the median and least speed, against quiet ones."""
    quiet = statistics.median(run["tok_s"] for run in runs[min(runs)])
    rows = []
    for count, found in runs.items():
        speeds = [run["tok_s"] for run in found]
        rows.append(
            {
                "busy": count,
                "tok_s": statistics.median(speeds),
                "least": min(speeds),
                "ratio": statistics.median(speeds) / quiet,
                "least_ratio": min(speeds) / quiet,
                "best": max(run["best"] for run in found),
                "others": statistics.mean(run["others"] for run in found),
                "runs": speeds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--busy", default="0,1,2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--run", type=float, default=1.0, help="seconds of each")
    parser.add_argument("--seconds", type=float, default=120, help="begin no round after these")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tree", type=Path, action="append", default=[], help="compare with it")
    parser.add_argument("--json", type=Path)
    parser.add_argument(CHILD, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(str(options.model), options.threads)
        return
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)
    counts = [int(count) for count in options.busy.split(",")]
    trees = [Path(__file__).resolve().parents[1], *(tree.resolve() for tree in options.tree)]
    running = {tree: start(tree, options.model, options.threads) for tree in trees}
    runs: dict[Path, dict[int, list[dict[str, float]]]] = {
        tree: {count: [] for count in counts} for tree in trees
    }
    end = time.monotonic() + options.seconds
    try:
        for number in range(options.runs):
            if number and time.monotonic() > end:
                break
            for count in counts:
                for tree, decoding in running.items():
                    runs[tree][count].append(measure(decoding, count, cores, options.run))
    finally:
        for decoding in running.values():
            decoding.kill()
    data = {str(tree): summary(found) for tree, found in runs.items()}
    for name, rows in data.items():
        print(f"{name}, cores {cores}")
        for row in rows:
            print(
                f"  {row['busy']} busy: {row['tok_s']:6.1f} tok/s ({row['ratio']:4.0%} of quiet), "
                f"least {row['least']:6.1f} ({row['least_ratio']:4.0%}), "
                f"best token {row['best']:6.1f}, others {row['others']:4.0%}"
            )
    if options.json:
        options.json.write_text(json.dumps({"cores": cores, "trees": data}, indent=1) + "\n")


if __name__ == "__main__":
    main()
