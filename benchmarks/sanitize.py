"""compute-sanitizer over a one-layer model of the full size, at every level.

    python benchmarks/sanitize.py [--tools memcheck,racecheck,initcheck] [--levels 0,1,2,3]

Runs itself under each tool: a prompt, a few greedy tokens, a few sampled ones, with the kernels of
the levels given; then the highest of them behind a prompt that is longer than a span of attention.
Exits with 1 if a tool finds anything.
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


SHORT, LONG = 4, 260
"""Tokens of a prompt: the longer one ends in the second span of three."""


def decode(model: Path, levels: list[int], prompt: int) -> None:
    """What is checked: graphs of the prompt, of greedy and of sampled tokens, and a single step."""
    ids = list(range(1, prompt + 1))
    for level in levels:
        engine = load(model, "native", level, context=64 if prompt == SHORT else 704)
        greedy = list(engine.generate(ids, 4))
        sampled = list(engine.generate(ids, 4, Sampling(temperature=1.0)))
        engine.step(greedy[-1])
        engine.close()
        print(f"-O{level}: {greedy} {sampled}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="compute-sanitizer over one layer")
    parser.add_argument("--tools", default=TOOLS, help="comma-separated")
    parser.add_argument("--levels", default="0,1,2,3", help="comma-separated")
    parser.add_argument("--model", type=Path, help="decode this file; what the tools run")
    parser.add_argument("--prompt", type=int, default=SHORT, help="its tokens; for --model")
    options = parser.parse_args()
    levels = [int(level) for level in options.levels.split(",")]
    if options.model:
        decode(options.model, levels, options.prompt)
        return
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        shape = replace(PRESETS["smollm2-135m"], layers=1, vocab=4096)
        model = synthesize(shape, Path(folder) / "layer.gguf")
        deepest = [max(levels)]
        runs = ((levels, SHORT), (deepest, LONG))
        for given, prompt in runs:  # kernels compiled before the tools slow everything down
            decode(model, given, prompt)
        for tool in options.tools.split(","):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
            print(f"== {tool}", flush=True)
            for given, prompt in runs:
                child = [sys.executable, __file__, "--model", str(model), "--prompt", str(prompt)]
                child += ["--levels", ",".join(map(str, given))]
                if subprocess.run([*command, *child], check=False).returncode:
                    failed.append(f"{tool} (prompt of {prompt})")
    print("found by: " + ", ".join(failed) if failed else "clean")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
