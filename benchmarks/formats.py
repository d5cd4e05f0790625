"""Every weight format on a GPU: one matvec of each, tokens a second of each mix, and Q8_0 at load.

    python benchmarks/formats.py prepare [--mixes Q4_K_M,...]   cubins into the cache; needs no GPU
    python benchmarks/formats.py matvec                         a 2048x8192 matvec of every format
    python benchmarks/formats.py tokens [--mixes ...] [-O 2]    tokens a second of every mix
    python benchmarks/formats.py at-load [--mixes ...] [-O 2]   the same models turned into Q8_0
    python benchmarks/formats.py render                         the tables of docs/formats.md

Measurements go to one JSON file (--json), each command under its own name. Kernels are compiled
through the content cache (FUSEC_CACHE_DIR), so a machine with a warm cache needs no compiler.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fusec
from fusec import Builder, backends, bench
from fusec.backends import cuda
from fusec.bench.facts import machine
from fusec.bench.gpu import read_bandwidth
from fusec.codegen.cuda.arch import find_arch
from fusec.codegen.cuda.build import compile_many
from fusec.codegen.cuda.candidates import default_of
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.codegen.formats import FORMATS, Format
from fusec.driver import Compiled
from fusec.ir.choice import RELEASES, Choice
from fusec.ir.plan import Arg
from fusec.models.quant_mix import MIXES
from fusec.models.requantize import requantize
from fusec.models.synth import synthesize
from fusec.runtime.cuda.session import CudaSession

ROWS, COLUMNS = 2048, 8192
COPIES_BYTES = 1 << 28  # several times the L2, so that weights come from memory
LAUNCHES = 512  # of a graph: what it takes to begin and to end counts for little
REPEATS = 20
SHAPE = "smollm2-135m"
AT_LOAD = ("F16", "IQ4_XS", "Q4_K_M")
RESULTS = Path(__file__).parent / "results" / "h200-formats.json"
PAGE = Path(__file__).parents[1] / "docs" / "formats.md"


def bits(fmt: Format) -> float:
    """Bits per weight in the file."""
    return 8 * fmt.dtype.block_bytes / fmt.dtype.block


def compiled_matvec(fmt: Format, target: str) -> Compiled:
    """A graph of one matvec, compiled like any other."""
    b = Builder(f"matvec_{fmt.name}")
    y = b.matvec(b.input("x", (1, COLUMNS)), b.weight("w", (ROWS, COLUMNS), fmt.name), name="y")
    return fusec.compile(b.build(y), target=target, level=3)


def random_matrix(fmt: Format) -> np.ndarray:
    """Raw rows of random bytes: what they decode to does not change how long it takes."""
    random = np.random.default_rng(0)
    size = (ROWS, fmt.row_bytes(COLUMNS))
    return random.integers(0, 256, size, dtype=np.uint8)


def choices(compiled: Compiled, target: str) -> dict[Choice, CudaKernel]:
    """The default, and what may be better where a launch's neighbours are of the same kernel.

    There, another place may be best to let the next launch begin, and blocks of tiles need not be
    alone on a processor, nor in pairs.
    """
    (kernel,) = compiled.plan.kernels
    usual = default_of(kernel)
    pairs = (True, False) if usual.paired else (False,)
    beside = replace(usual, alone=False)
    others = [replace(beside, release=r, paired=p) for r in RELEASES for p in pairs]
    arch = find_arch(target)
    return {c: emit(replace(kernel, choice=c), arch) for c in dict.fromkeys([usual, *others])}


def measure_matvec(fmt: Format, target: str, bandwidth: float) -> dict[str, Any]:
    """Time of one matvec within a captured graph of many, each over another copy of the matrix.

    Launches start early, as in a decode step at -O3. The best of `choices` counts.
    """
    compiled = compiled_matvec(fmt, target)
    raw = random_matrix(fmt)
    if fmt.name == "f32":  # a session takes f32 weights as floats
        raw = raw.view(np.float32).reshape(ROWS, COLUMNS)
    session = compiled.session({"w": raw})
    assert isinstance(session, CudaSession)
    workspace = session.workspace
    layout = session.plan.weights["@w"].layout
    packed = fmt.cuda_repack(raw.view(np.uint8).reshape(ROWS, -1), layout)
    room = -(-packed.nbytes // 256) * 256
    count = max(COPIES_BYTES // room, 2)
    base = workspace.memory.empty(room * count, "copies of the matrix")
    for k in range(count):
        workspace.memory.write(base + k * room, packed)
    (launch,) = session.plan.launches
    own = workspace.address(Arg("weight", "@w"))
    pointers = [workspace.address(arg) for arg in launch.args]

    def enqueue() -> None:
        for k in range(LAUNCHES):
            here = [base + k % count * room if p == own else p for p in pointers]
            workspace.launch(launch.kernel, here, early=k > 0)

    driver, stream = workspace.driver, workspace.stream
    best, seconds, chosen = "", float("inf"), None
    kernels = choices(compiled, target)
    for choice, cubin in zip(kernels, compile_many(list(kernels.values()), target), strict=True):
        workspace.add(cuda.executable(kernels[choice], cubin))
        graph = workspace.capture(enqueue)
        times = []
        for _ in range(REPEATS):
            start, end = driver.event(), driver.event()
            driver.record(start, stream)
            driver.replay(graph, stream)
            driver.record(end, stream)
            driver.synchronize(stream)
            times.append(driver.seconds_between(start, end) / LAUNCHES)
        workspace.release(graph)
        if statistics.median(times[1:]) < seconds:
            best, seconds, chosen = str(choice), statistics.median(times[1:]), cubin
    assert chosen is not None
    session.close()
    gb_s = packed.nbytes / seconds / 1e9
    return {
        "format": fmt.name,
        "bits": bits(fmt),
        "bits_packed": 8 * packed.nbytes / (ROWS * COLUMNS),
        "choice": best,
        "registers": chosen.registers,
        "spill_bytes": chosen.spill_stores + chosen.spill_loads,
        "us": 1e6 * seconds,
        "gb_s": gb_s,
        "share": gb_s / bandwidth,
    }


@contextmanager
def models(options: argparse.Namespace, *more: str) -> Iterator[Iterator[tuple[str, Path]]]:
    """Synthetic models of the mixes, made as they are asked for; those of --models are taken."""

    def each() -> Iterator[tuple[str, Path]]:
        for mix in dict.fromkeys([*options.mixes, *more]):
            made = options.models / f"{mix}.gguf"
            if made.exists():
                yield mix, made
            else:
                path = synthesize(SHAPE, Path(folder) / made.name, quant=mix)
                yield mix, path
                path.unlink()

    with tempfile.TemporaryDirectory() as folder:
        yield each()


def tokens_of(path: Path, level: int, target: str) -> dict[str, Any]:
    """Tokens a second, the median of several runs."""
    plan = bench.Plan(lengths=(128,), levels=(level,), target=target)
    (row,) = bench.run(path, plan)["results"]
    keys = ("tok_s", "us_per_token", "spread", "gb_s", "dispatches")
    return {key: row[key] for key in keys} | {"megabytes": path.stat().st_size / 1e6}


def prepare(options: argparse.Namespace) -> None:
    """Compile every kernel that the other commands launch."""
    from fusec.codegen.cuda import probe

    for fmt in FORMATS.values():
        compiled = compiled_matvec(fmt, options.target)
        compile_many(list(choices(compiled, options.target).values()), options.target)
    measuring = [probe.read(), *probe.stamps()]
    cuda.build({kernel.name: kernel for kernel in measuring}, options.target)
    with models(options, "Q8_0") as found:
        for mix, path in found:
            fusec.compile(path, target=options.target, level=options.level).build()
            print(f"{mix}: kernels of -O{options.level} are in the cache", flush=True)


def matvec(options: argparse.Namespace) -> Any:
    bandwidth = read_bandwidth(options.target)
    rows = []
    for fmt in sorted(FORMATS.values(), key=bits):
        rows.append(measure_matvec(fmt, options.target, bandwidth))
        print(json.dumps(rows[-1]), flush=True)
    return {"rows": ROWS, "columns": COLUMNS, "bandwidth_gb_s": bandwidth, "results": rows}


def tokens(options: argparse.Namespace) -> Any:
    rows = []
    with models(options) as found:
        for mix, path in found:
            rows.append({"mix": mix} | tokens_of(path, options.level, options.target))
            print(json.dumps(rows[-1]), flush=True)
    return {"model": SHAPE, "level": options.level, "results": rows}


def at_load(options: argparse.Namespace) -> Any:
    """Every matrix turned into Q8_0 before it is uploaded, and what that costs."""
    rows = []
    with models(options) as found, tempfile.TemporaryDirectory() as folder:
        for mix, path in found:
            native = tokens_of(path, options.level, options.target)
            start = time.perf_counter()
            turned = Path(folder) / "turned.gguf"
            requantize(path, turned, "Q8_0", search="quick", again=True)
            seconds = time.perf_counter() - start
            converted = tokens_of(turned, options.level, options.target)
            turned.unlink()
            rows.append({"mix": mix, "seconds": seconds, "native": native, "q8_0": converted})
            print(json.dumps(rows[-1]), flush=True)
    return {"model": SHAPE, "level": options.level, "results": rows}


# --- tables --------------------------------------------------------------------------------------


def table(head: str, rows: list[str]) -> str:
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", "|---" * columns + "|", *(f"| {row} |" for row in rows)])


def matvec_table(found: dict[str, Any]) -> str:
    rows = [
        f"{r['format'].upper()} | {r['bits']:.4g} | {r['bits_packed']:.4g} | {r['registers']} | "
        f"{r['us']:.2f} | {r['gb_s']:,.0f} | {100 * r['share']:.0f}% | "
        f"{ROWS * COLUMNS / r['us'] / 1e6:.2f}"
        for r in found["results"]
    ]
    head = "type | bits per weight | on the GPU | registers | us | GB/s | of bandwidth | Tweights/s"
    note = f"Measured read bandwidth: {found['bandwidth_gb_s']:,.0f} GB/s."
    return f"{table(head, rows)}\n\n{note}"


def tokens_table(found: dict[str, Any]) -> str:
    rows = [
        f"{r['mix']} | {r['megabytes']:.0f} | {r['dispatches']} | {r['us_per_token']:.0f} | "
        f"{r['tok_s']:,.0f} | {r['gb_s']:,.0f}"
        for r in sorted(found["results"], key=lambda r: -r["tok_s"])
    ]
    head = "mix | MB | dispatches | us per token | tok/s | GB/s"
    return f"{table(head, rows)}\n\n`{found['model']}`, -O{found['level']}."


def at_load_table(found: dict[str, Any]) -> str:
    rows = [
        f"{r['mix']} | {r['native']['megabytes']:.0f} | {r['native']['tok_s']:,.0f} | "
        f"{r['q8_0']['megabytes']:.0f} | {r['q8_0']['tok_s']:,.0f} | {r['seconds']:.1f}"
        for r in found["results"]
    ]
    head = "file | MB | tok/s | MB as Q8_0 | tok/s as Q8_0 | seconds to convert"
    return f"{table(head, rows)}\n\n`{found['model']}`, -O{found['level']}."


def render(options: argparse.Namespace) -> None:
    """Put the tables between their markers in the page."""
    found = json.loads(options.json.read_text())
    text = PAGE.read_text()
    makers = {"matvec": matvec_table, "tokens": tokens_table, "at-load": at_load_table}
    for name, make in makers.items():
        if name in found:
            begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{make(found[name])}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="every weight format on a GPU")
    commands = {"matvec": matvec, "tokens": tokens, "at-load": at_load}
    parser.add_argument("command", choices=["prepare", *commands, "render"])
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--mixes", type=lambda text: text.split(","))
    parser.add_argument("--models", type=Path, default=Path(), help="folder of MIX.gguf files")
    parser.add_argument("-O", "--level", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    backend = backends.get(options.target)
    assert isinstance(backend, cuda.Cuda)
    options.mixes = options.mixes or list(AT_LOAD if options.command == "at-load" else MIXES)
    if options.command in commands:
        found = json.loads(options.json.read_text()) if options.json.exists() else {}
        found[options.command] = machine(backend) | commands[options.command](options)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    else:
        {"prepare": prepare, "render": render}[options.command](options)


if __name__ == "__main__":
    main()
