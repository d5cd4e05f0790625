"""The demo model from nothing: corpus, tokenizer, training, GGUF.

    pip install torch                                 # and fusec itself
    python examples/demo_model/build.py               # minutes on a GPU, hours without

Steps, each a script of its own, so that training can run on another machine than the rest:

    corpus.py OUT                  stories, tokenizer.json, ids.npz, held_out.txt   CPU
    train.py  OUT/ids.npz OUT      weights.npz, log.json                            GPU
    export.py OUT OUT/demo-f32.gguf                                             CPU
    fusec quantize OUT/demo-f32.gguf OUT/demo.gguf IQ4_XS

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


def step(*command: object) -> None:
    """Run Python with these arguments; its failure ends everything."""
    words = [str(word) for word in command]
    print(f"== {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the demo model.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo_model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stories", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    parser.add_argument("--install", action="store_true", help="make it the package's `demo`")
    parser.add_argument("--trained", action="store_true", help="OUT has weights.npz and log.json")
    args = parser.parse_args()
    out = args.out
    if args.trained:
        return finish(out, args.install)
    step(HERE / "corpus.py", out, "--stories", args.stories, "--seed", args.seed)
    fuse = ["--compile"] if args.compile else []
    training = "--steps", args.steps, "--seed", args.seed, *fuse
    step(HERE / "train.py", out / "ids.npz", out, *training)
    finish(out, args.install)


def finish(out: Path, install: bool) -> None:
    """What follows training."""
    exact, small = out / "demo-f32.gguf", out / "demo.gguf"
    step(HERE / "export.py", out, exact)
    step("-m", "fusec", "quantize", exact, small, SHIPPED)
    if install:
        shutil.copy(small, ROOT / "fusec" / "data" / "demo.gguf")
        shutil.copy(out / "log.json", HERE / "training.json")
        step(HERE / "golden.py")


if __name__ == "__main__":
    main()
