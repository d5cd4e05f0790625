"""compute-sanitizer over one layer of SmolLM2-135M at every level, and one of 1.7B at the highest.

    python benchmarks/sanitize.py [--tools memcheck,racecheck,initcheck] [--levels 0,1,2,3]

Runs itself under each tool: a prompt, a few greedy tokens, a few sampled ones, then some steps at
positions where attention goes from one span to the next. Exits with 1 if a tool finds anything.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from fusec import Sampling, load
from fusec.models.synth import PRESETS, synthesize

TOOLS = "memcheck,racecheck,initcheck"

SPAN = 256  # positions
CONTEXT = 704


def decode(model: Path, levels: list[int]) -> None:
    """What is checked: graphs of the prompt, of greedy and of sampled tokens, and single steps."""
    for level in levels:
        engine = load(model, "native", level, context=CONTEXT)
        greedy = list(engine.generate([1, 2, 3, 4], 4))
        sampled = list(engine.generate([1, 2, 3, 4], 4, Sampling(temperature=1.0)))
        engine.position = SPAN - 2  # the rows in front are zeros
        for token in (5, 6, 7, 8):
            engine.step(token)
        engine.close()
        print(f"-O{level}: {greedy} {sampled}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="compute-sanitizer over one layer")
    parser.add_argument("--tools", default=TOOLS, help="comma-separated")
    parser.add_argument("--levels", default="0,1,2,3", help="comma-separated")
    parser.add_argument("--model", type=Path, help="decode this file; what the tools run")
    options = parser.parse_args()
    levels = [int(level) for level in options.levels.split(",")]
    if options.model:
        decode(options.model, levels)
        return
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for preset, given in (("smollm2-135m", levels), ("smollm2-1.7b", [max(levels)])):
            shape = replace(PRESETS[preset], layers=1, vocab=4096)
            runs.append((synthesize(shape, Path(folder) / f"{preset}.gguf"), given))
        for model, given in runs:  # kernels compiled before the tools slow everything down
            decode(model, given)
        for tool in options.tools.split(","):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
            for model, given in runs:
                print(f"== {tool}: {model.stem}", flush=True)
                child = [sys.executable, __file__, "--model", str(model)]
                child += ["--levels", ",".join(map(str, given))]
                if subprocess.run([*command, *child], check=False).returncode:
                    failed.append(f"{tool} ({model.stem})")
    print("found by: " + ", ".join(failed) if failed else "clean")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
