"""`fusec bench`: tokens a second at every level, beside what the machine's memory could give."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fusec import driver
from fusec.codegen import targets
from fusec.cores import cores
from fusec.driver import Compiled
from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph
from fusec.ir.ops import op
from fusec.passes.pipeline import LEVELS
from fusec.runtime.cuda.window import check_mode
from fusec.runtime.engine import Engine

Note = Callable[[str], None]

PACKAGES = ("fusec", "numpy", "numba", "numba-cuda", "llvmlite", "cuda-bindings")


@dataclass(frozen=True)
class Plan:
    """What to measure: every level with every L2 mode and every length, `repeats` times each.

    `eager` adds the lowest level launched kernel by kernel, without a captured graph.
    """

    lengths: tuple[int, ...] = (128, 256)
    levels: tuple[int, ...] = (0, 1, 2, 3)
    l2: tuple[str, ...] = ("auto",)
    target: str = "cpu"
    prompt: int = 16
    repeats: int = 5
    eager: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        for name, values, least in (
            ("-n", self.lengths, 2),
            ("--prompt", (self.prompt,), 1),
            ("--repeats", (self.repeats,), 1),
        ):
            if not values or min(values) < least:
                raise FusecError(f"bench: expected {name} from {least}, found {list(values)}")
        for mode in self.l2:
            check_mode(mode)
        if unknown := set(self.levels) - set(LEVELS):
            raise FusecError(f"bench: no level {min(unknown)}: there are {sorted(LEVELS)}")


@dataclass(frozen=True)
class Result:
    """One row. `spread`: (fastest - slowest) / median; `gb_s`: weights read a token, over time.

    `us_device` and `us_gap`: a token from its first kernel to its last, and from there to the next
    token's first, by the GPU's clock; None where nobody measured them.
    """

    model: str
    level: int | None
    launch: str  # graph | eager | cpu, or a peer's name
    l2: str
    prompt: int
    n: int
    tok_s: float
    us_per_token: float
    spread: float
    dispatches: int | None = None
    gb_s: float | None = None
    share: float | None = None
    us_device: float | None = None
    us_gap: float | None = None


def run(path: Path, plan: Plan, note: Note = lambda _: None) -> dict[str, Any]:
    """Measure a model file as `plan` says. Returns what `--json` writes."""
    is_cuda = targets.get(plan.target).is_cuda
    modes = plan.l2 if is_cuda else ("off",)
    cases = [(level, mode, False) for level in plan.levels for mode in modes]
    if plan.eager and is_cuda:
        cases.insert(0, (min(plan.levels), modes[0], True))
    bandwidth = read_bandwidth(plan, note)
    results: list[Result] = []
    residency: dict[str, Any] = {}
    for level, mode, eager in cases:
        note(f"-O{level} {'eager' if eager else mode}")
        compiled = compile_for(path, plan, level)
        engine = compiled.engine(threads=plan.threads, l2=mode, eager=eager)
        try:
            results += measure(engine, compiled, plan, mode, eager, bandwidth)
            if is_cuda:
                residency[mode] = engine.workspace.residency.as_dict()  # type: ignore[attr-defined]
        finally:
            engine.close()
    return {
        **machine(is_cuda),
        "bandwidth_gb_s": bandwidth,
        "l2": residency,
        "results": [asdict(result) for result in results],
    }


def compile_for(path: Path, plan: Plan, level: int) -> Compiled:
    """The model with just the context that the longest run needs, or the usual one."""
    wanted = plan.prompt + max(plan.lengths)
    context = wanted if wanted > driver.DEFAULT_CONTEXT else None
    return driver.compile(path, target=plan.target, level=level, context=context)


def measure(
    engine: Engine, compiled: Compiled, plan: Plan, mode: str, eager: bool, bandwidth: float | None
) -> Iterator[Result]:
    """A row for each length. A run before the first is not counted."""
    launch = ("eager" if eager else "graph") if compiled.is_cuda else "cpu"
    nbytes = weight_bytes_read(compiled.graph)
    engine.stop = frozenset()
    prompt = prompt_ids(engine.vocabulary, plan.prompt)
    device, gap = None, None
    if launch == "graph":
        from fusec.bench.gpu import device_times

        device, gap = device_times(engine, prompt, min(plan.lengths))
    for n in plan.lengths:
        seconds_per_token(engine, prompt, n)
        times = [seconds_per_token(engine, prompt, n) for _ in range(plan.repeats)]
        row = summarize(compiled.plan.name, times, prompt=len(prompt), n=n)
        gb_s = nbytes / row.us_per_token / 1e3
        yield replace(
            row,
            model=Path(compiled.model.file.path).stem if compiled.model else row.model,
            level=compiled.plan.level,
            launch=launch,
            l2=mode,
            dispatches=compiled.plan.dispatches["forward"],
            gb_s=gb_s,
            share=gb_s / bandwidth if bandwidth else None,
            us_device=device,
            us_gap=gap,
        )


def summarize(model: str, times: Iterable[float], *, prompt: int, n: int) -> Result:
    """A row of repeated measurements, seconds a token each."""
    times = sorted(times)
    middle = statistics.median(times)
    spread = (times[-1] - times[0]) / middle
    return Result(model, None, model, "", prompt, n, 1 / middle, 1e6 * middle, spread)


def seconds_per_token(engine: Engine, prompt: list[int], n: int) -> float:
    """Time from the first new token to the n-th, as the caller sees them, over n - 1."""
    tokens = engine.generate(prompt, n)
    next(tokens)
    start = time.perf_counter()
    made = sum(1 for _ in tokens)
    assert made == n - 1
    return (time.perf_counter() - start) / made


def prompt_ids(vocabulary: int, count: int) -> list[int]:
    """A prompt of arbitrary tokens, the same everywhere."""
    return [int(i) for i in np.random.default_rng(0).integers(0, vocabulary, count)]


def weight_bytes_read(graph: Graph) -> int:
    """Bytes of weights one token needs: all of each, but one row of what is only embedded."""
    nodes = tuple(graph.walk())
    whole = {v for node in nodes if not op(node.op).gathers for v in node.weights}
    rows = [v for node in nodes if op(node.op).gathers for v in node.weights]
    once = sum(dtype(v.dtype).nbytes(v.shape[1:]) for v in rows if v not in whole)
    return sum(v.nbytes for v in whole) + once


def read_bandwidth(plan: Plan, note: Note) -> float | None:
    """GB/s this GPU reads from memory; None on the CPU, where nothing is measured."""
    target = targets.get(plan.target)
    if not target.is_cuda:
        return None
    from fusec.bench.gpu import read_bandwidth as measured

    note("bandwidth")
    return measured(target.name)


def machine(is_cuda: bool) -> dict[str, Any]:
    """What the numbers depend on besides the model: hardware, driver, versions, commit, command."""
    found: dict[str, Any] = {"gpu": None, "driver": None}
    if is_cuda:
        from fusec.runtime.cuda.driver import Driver

        gpu = Driver()
        found = {"gpu": gpu.name, "driver": f"{kernel_driver()} (CUDA {gpu.version})".lstrip()}
        gpu.close()
    return found | {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "versions": {"python": platform.python_version()} | dict(installed(PACKAGES)),
        "commit": commit(),
        "command": " ".join(["fusec", *sys.argv[1:]]),
    }


def installed(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and version of those packages that are here."""
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def kernel_driver() -> str:
    """The version of the NVIDIA kernel driver, as the kernel module tells it."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word.count(".") == 2 and word[0].isdigit()), "")


def commit() -> str:
    """The commit of fusec's own source tree: FUSEC_COMMIT, or what git says where it is a checkout.

    An installed package may lie in somebody else's checkout, whose commit says nothing.
    """
    if given := os.environ.get("FUSEC_COMMIT"):
        return given
    here = Path(__file__).resolve().parents[1]
    git = ("git", "-C", str(here))
    try:
        if not _output([*git, "ls-files", "--error-unmatch", "__init__.py"]):
            return "unknown"
        return _output([*git, "describe", "--always", "--dirty", "--abbrev=12"]) or "unknown"
    except OSError:  # no git
        return "unknown"


def _output(command: list[str]) -> str:
    """What a command prints; nothing if it fails. Git's own variables are for another tree."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    run = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else ""
