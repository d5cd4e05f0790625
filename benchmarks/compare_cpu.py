"""Decoding on the CPU: fusec at each level, and llama.cpp in the same run where it is installed.

    python benchmarks/compare_cpu.py [MODEL.gguf] [-n 128] [--prompt 16] [--threads 2] [--rss]

Without a model, SmolLM2-135M's shape is made with random weights (IQ4_XS). Turns go round by round
over the candidates, so that a machine that slows down slows all of them; the median counts. The
time of a token is from the first new token to the last. GB/s are the bytes of the weights that a
token reads, over its time. llama.cpp is used through llama-cpp-python (`pip install
llama-cpp-python`) and its greedy tokens are compared with ours. `--rss` measures the peak resident
memory of processes that load the model, generate and end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fusec
from fusec.backends.cpu import default_threads
from fusec.cores import cores
from fusec.models.model import Model
from fusec.models.synth import synthesize
from fusec.passes.pipeline import LEVELS

Generate = Callable[[list[int], int], Iterator[int]]
LLAMA = "llama.cpp"


@dataclass
class Row:
    """One candidate. `ratio` is to llama.cpp, or to the slowest level where there is none."""

    name: str
    tok_s: float
    ms: float
    gb_s: float
    spread: float  # (slowest - fastest) / median of the rounds
    ratio: float = 0.0
    same_tokens: bool = True


def main() -> None:
    args = arguments()
    if args.child:
        child(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or synthesize("smollm2-135m", Path(folder) / "smollm2-135m.gguf")
        data = measure(model, args)
        if args.rss:
            data["resident"] = resident(model, args)
    show(data)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file (default: made up)")
    parser.add_argument("-n", type=int, default=128, help="new tokens of a round")
    parser.add_argument("--prompt", type=int, default=16, help="tokens in front of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", default=",".join(map(str, LEVELS)), help="for example 0,2")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--kv", default="f16", choices=("f16", "f32"))
    parser.add_argument("--rss", action="store_true", help="measure resident memory too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All candidates, round by round."""
    prompt = prompt_ids(model, args.prompt)
    names = [f"-O{level}" for level in args.levels.split(",")]
    if importlib.util.find_spec("llama_cpp"):
        names.append(LLAMA)
    candidates = {name: candidate(name, model, args) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    tokens: dict[str, list[int]] = {}
    for _ in range(args.rounds + 1):  # the first round warms up
        for name, generate in candidates.items():
            tokens[name], taken = timed(generate, prompt, args.n)
            seconds[name].append(taken)
    nbytes = weight_bytes(model)
    rows = []
    for name in names:
        times = sorted(seconds[name][1:])
        middle = statistics.median(times)
        spread = (times[-1] - times[0]) / middle
        same = tokens[name] == tokens[names[0]]
        row = Row(name, 1 / middle, 1e3 * middle, nbytes / middle / 1e9, spread, same_tokens=same)
        rows.append(row)
    base = next((r for r in rows if r.name == LLAMA), min(rows, key=lambda r: r.tok_s))
    for row in rows:
        row.ratio = row.tok_s / base.tok_s
    return {
        "model": model.name,
        "file_bytes": model.stat().st_size,
        "weight_bytes": nbytes,
        "new_tokens": args.n,
        "prompt_tokens": len(prompt),
        "threads": args.threads,
        "kv": args.kv,
        "rounds": args.rounds,
        "ratio_to": base.name,
        "results": [asdict(row) for row in rows],
        **machine(),
    }


def candidate(name: str, model: Path, args: argparse.Namespace) -> Generate:
    """The function that generates greedily, the model loaded and the threads running."""
    context = args.prompt + args.n + 1
    if name != LLAMA:
        level = int(name.removeprefix("-O"))
        engine = fusec.load(model, level=level, context=context, kv=args.kv, threads=args.threads)
        engine.stop = frozenset()
        return engine.tokens

    import llama_cpp

    kind = llama_cpp.GGML_TYPE_F16 if args.kv == "f16" else llama_cpp.GGML_TYPE_F32
    llama = llama_cpp.Llama(
        str(model),
        n_gpu_layers=0,
        n_ctx=context,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        type_k=kind,
        type_v=kind,
        verbose=False,
    )

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        llama.reset()
        tokens = llama.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0)
        for _ in range(count):
            yield next(tokens)

    return generate


def timed(generate: Generate, prompt: list[int], count: int) -> tuple[list[int], float]:
    """The tokens, and seconds a token behind the first."""
    stream = generate(prompt, count)
    tokens = [next(stream)]
    start = time.perf_counter()
    tokens += stream
    return tokens, (time.perf_counter() - start) / max(len(tokens) - 1, 1)


def prompt_ids(model: Path, count: int) -> list[int]:
    """Ids spread over the vocabulary, the same each time."""
    vocabulary = Model.open(model).config.vocab
    return [(7919 * i + 101) % vocabulary for i in range(count)]


def weight_bytes(model: Path) -> int:
    """Bytes of the weights a token reads: all of them, but of an embedding table one row."""
    opened = Model.open(model)
    tensors = opened.file.tensors
    total = sum(t.data.nbytes for t in tensors.values())
    embedding = tensors["token_embd.weight"].data.nbytes
    return total - (0 if opened.config.tied else embedding)


# --- memory --------------------------------------------------------------------------------------


def resident(model: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Peak resident bytes of a process of each kind, and those over the file's size."""
    names = [f"-O{args.levels.split(',')[-1]}"]
    if importlib.util.find_spec("llama_cpp"):
        names.append(LLAMA)
    found = {}
    for name in ("import", *names):
        options = ["--prompt", args.prompt, "-n", args.n, "--threads", args.threads]
        command = [sys.executable, __file__, model, *options, "--kv", args.kv, f"--child={name}"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        peak = int(done.stdout.split()[-1])
        found[name] = {"bytes": peak, "files": peak / model.stat().st_size}
    return found


def child(args: argparse.Namespace) -> None:
    """Generate once in this process and print the most memory it ever held; `import`: nothing."""
    if args.child != "import":
        generate = candidate(args.child, args.model, args)
        timed(generate, prompt_ids(args.model, args.prompt), args.n)
    print(peak_resident())


def peak_resident() -> int:
    """Bytes. Linux's getrusage counts the parent before the exec, /proc does not."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(x.split()[1]) << 10 for x in status.splitlines() if x.startswith("VmHWM:"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# --- what is shown -------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    packages = ("fusec", "numpy", "numba", "llvmlite", "llama-cpp-python")
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed for name in packages if (installed := package(name))},
        "commit": commit(),
        "command": " ".join(sys.argv),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


def package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, with a + where files have changed since."""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *command],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head[:12] + ("+" if changed else "")


def show(data: dict[str, Any]) -> None:
    print(
        f"{data['model']} ({data['file_bytes'] / 1e6:.1f} MB), {data['prompt_tokens']} + "
        f"{data['new_tokens']} tokens, {data['threads']} threads, kv {data['kv']}, "
        f"{data['cpu']}, load {data['load']:.1f}"
    )
    print(f"{'':12}{'tok/s':>10}{'ms/token':>10}{'GB/s':>8}{'spread':>8}  x {data['ratio_to']}")
    for row in data["results"]:
        other = "" if row["same_tokens"] else "   other tokens than the first"
        print(
            f"{row['name']:12}{row['tok_s']:10.1f}{row['ms']:10.2f}{row['gb_s']:8.2f}"
            f"{row['spread']:8.0%}  {row['ratio']:.2f}{other}"
        )
    for name, memory in data.get("resident", {}).items():
        print(f"resident, {name}: {memory['bytes'] / 1e6:.0f} MB, {memory['files']:.2f} x the file")


if __name__ == "__main__":
    main()
