"""compute-sanitizer over one layer of SmolLM2-135M at every level, and one of 1.7B at the highest.

    python benchmarks/sanitize.py [--tools memcheck,racecheck,initcheck] [--levels 0,1,2,3]

Runs itself under each tool, all at once: a prompt, a few greedy tokens, a few sampled ones, then
some steps at positions where attention goes from one span to the next. Exits with 1 if a tool finds
anything.

Racecheck has no such steps at the highest level of the 135M shape: there, blocks send each other
their spans (`st.async`), and under that tool they did not end within seven minutes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fusec import Sampling, load
from fusec.cores import cores
from fusec.models.synth import PRESETS, synthesize

TOOLS = "memcheck,racecheck,initcheck"

EXCHANGES = "smollm2-135m"  # the shape whose blocks of attention exchange
HIGHEST = 3
SPAN = 256  # positions
CONTEXT = 704
WIDTHS = (2, 8, 16, 512)  # rows of a step


def decode(model: Path, level: int, far: bool, wide: bool) -> None:
    """What is checked: graphs of the prompt and of tokens, single steps, and steps of rows."""
    engine = load(model, "native", level, context=CONTEXT)
    greedy = list(engine.tokens([1, 2, 3, 4], 4))
    sampled = list(engine.tokens([1, 2, 3, 4], 4, Sampling(temperature=1.0)))
    if far:
        engine.feed([1] * (SPAN - 2 - engine.position))
        for token in (5, 6, 7, 8):
            engine.step(token)
    for width in WIDTHS if wide else WIDTHS[:-1]:
        engine.logits([1 + i % 500 for i in range(width)])
    engine.close()
    print(f"-O{level}: {greedy} {sampled}", flush=True)


def check(tool: str, model: Path, level: int) -> bool:
    """Run one model at one level under a tool; whether it found nothing."""
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
    command += [sys.executable, __file__, "--model", str(model), "--levels", str(level)]
    if tool == "racecheck" and level == HIGHEST and model.stem == EXCHANGES:
        command.append("--near")
    started = time.perf_counter()
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    print(
        f"== {tool}: {model.stem} -O{level}, {seconds:.0f} s\n{found.stdout}{found.stderr}", end=""
    )
    return found.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="compute-sanitizer over one layer")
    parser.add_argument("--tools", default=TOOLS, help="comma-separated")
    parser.add_argument("--levels", default="0,1,2,3", help="comma-separated")
    parser.add_argument("--model", type=Path, help="decode this file; what the tools run")
    parser.add_argument("--near", action="store_true", help="with --model: within one span")
    options = parser.parse_args()
    levels = [int(level) for level in options.levels.split(",")]
    if options.model:
        for level in levels:
            decode(options.model, level, not options.near, not options.near)
        return
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores()) as pool:
        runs = []
        for preset, given in ((EXCHANGES, levels), ("smollm2-1.7b", [max(levels)])):
            shape = replace(PRESETS[preset], layers=1, vocab=4096)
            model = synthesize(shape, Path(folder) / f"{preset}.gguf")
            runs += [(model, level) for level in given]
        for model, level in runs:  # kernels compiled before the tools slow everything down
            decode(model, level, far=True, wide=True)
        tools = options.tools.split(",")
        clean = list(pool.map(lambda run: check(*run), [(t, *run) for t in tools for run in runs]))
    print("clean" if all(clean) else f"{clean.count(False)} of {len(clean)} found something")
    raise SystemExit(not all(clean))


if __name__ == "__main__":
    main()
