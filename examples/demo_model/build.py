"""The demo model from nothing: corpus, tokenizer, training, GGUF.

    pip install torch                                 # and fusec itself
    python examples/demo_model/build.py               # minutes on a GPU, hours without

Steps, each a script of its own, so that training can run on another machine than the rest:

    corpus.py OUT                  stories, tokenizer.json, ids.npz, held_out.txt   CPU
    train.py  OUT/ids.npz OUT      weights.npz, log.json                            GPU
    export.py OUT OUT/demo-f32.gguf

`--install` puts the result into the package as `demo`, and its record beside this file.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHIPPED = "IQ4_XS"


def step(script: str, *args: object) -> None:
    """Run one of the scripts; its failure ends everything."""
    print(f"== {script} {' '.join(map(str, args))}", flush=True)
    subprocess.run([sys.executable, HERE / script, *map(str, args)], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the demo model.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo_model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stories", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    parser.add_argument("--install", action="store_true", help="make it the package's `demo`")
    args = parser.parse_args()
    out = args.out
    step("corpus.py", out, "--stories", args.stories, "--seed", args.seed)
    fuse = ["--compile"] if args.compile else []
    step("train.py", out / "ids.npz", out, "--steps", args.steps, "--seed", args.seed, *fuse)
    step("export.py", out, out / "demo-f32.gguf")
    step("export.py", out, out / "demo.gguf", "--quant", SHIPPED)
    if args.install:
        shutil.copy(out / "demo.gguf", ROOT / "fusec" / "data" / "demo.gguf")
        shutil.copy(out / "log.json", HERE / "training.json")


if __name__ == "__main__":
    main()
