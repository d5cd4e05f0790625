"""Damage the files of tests/models/corpus many times, and read what comes of it.

    python -m benchmarks.fuzz_gguf [--mutations 100000] [--seed 0] [--keep FOLDER]

Every damaged file has to be read, or refused with a FusecError of one line: in time, and in memory
bounded by its size (tests/gguf_fuzz.py has the bounds). Prints findings, the first of a kind, and
exits with 1 if there are any; `--keep` writes their files.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.gguf_fuzz import Finding, corpus, damaged, place, read, warm_up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    seeds = corpus()
    findings: Counter[str] = Counter()
    models, started, slowest = 0, time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder), seeds)
        for i in range(asked.mutations):
            random = Random(f"{asked.seed}:{i}")
            name = random.choice(list(seeds))
            content = damaged(random, seeds, name)
            path = place(Path(folder), name, content, seeds)
            began = time.perf_counter()
            try:
                models += read(path)
            except Finding as finding:
                kind = f"{name}: {str(finding)[:120]}"
                findings[kind] += 1
                if findings[kind] == 1:
                    print(f"mutation {i} of {kind}", flush=True)
                    if asked.keep:
                        asked.keep.mkdir(parents=True, exist_ok=True)
                        (asked.keep / f"{i}-{name}").write_bytes(content)
            slowest = max(slowest, time.perf_counter() - began)
            if (i + 1) % 10_000 == 0:
                print(f"{i + 1} mutations, {findings.total()} findings", flush=True)
    seconds = time.perf_counter() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{asked.mutations} mutations in {seconds:.0f} s: {models} read as models, "
        f"{findings.total()} findings; the slowest took {slowest * 1e3:.0f} ms, the process "
        f"{megabytes:.0f} MB"
    )
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
