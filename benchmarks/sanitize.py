"""compute-sanitizer over a one-layer model of the full size, at every level.

    python benchmarks/sanitize.py [--tools memcheck,racecheck,initcheck] [--levels 0,1,2,3]

Runs itself under each tool: a prompt, a few greedy tokens, a few sampled ones, with the kernels of
the levels given. Exits with 1 if a tool finds anything.
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


def decode(model: Path, levels: list[int]) -> None:
    """What is checked: graphs of the prompt, of greedy and of sampled tokens, and a single step."""
    for level in levels:
        engine = load(model, "native", level, context=64)
        greedy = list(engine.generate([1, 2, 3, 4], 4))
        sampled = list(engine.generate([1, 2, 3, 4], 4, Sampling(temperature=1.0)))
        engine.step(greedy[-1])
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
        shape = replace(PRESETS["smollm2-135m"], layers=1, vocab=4096)
        model = synthesize(shape, Path(folder) / "layer.gguf")
        decode(model, levels)  # kernels compiled before the tools slow everything down
        for tool in options.tools.split(","):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
            child = [sys.executable, __file__, "--model", str(model), "--levels", options.levels]
            print(f"== {tool}", flush=True)
            if subprocess.run([*command, *child], check=False).returncode:
                failed.append(tool)
    print("found by: " + ", ".join(failed) if failed else "clean")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
