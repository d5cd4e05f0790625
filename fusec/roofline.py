"""`fusec roofline`: what a plan needs, what GPUs could give, and what the cost model expects.

floor    the larger of bytes over bandwidth and operations over their rate: no plan is faster
predict  the cost model's time for the plan of each level
binds    what the best level's time goes into, by the cost model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fusec import driver
from fusec.compiled import Options
from fusec.driver import DEFAULT_CONTEXT
from fusec.errors import FusecError, reason
from fusec.ir import gpus
from fusec.ir.dtypes import dtype
from fusec.ir.gpu import Gpu
from fusec.ir.graph import Graph
from fusec.ir.ops import flops, op, weight_bytes_read
from fusec.ir.plan import LaunchPlan
from fusec.models.model import Model
from fusec.passes import cost
from fusec.passes.pipeline import LEVELS, Pass, check_levels, run_passes
from fusec.passes.schedule import Schedule, critical_path
from fusec.report import make_table, size

STUDY = {
    "RTX 5090": (
        "measured for SmolLM2-135M, 128 tokens, by the study that fusec starts from, with kernels "
        "of its own, not fusec's: 750 tok/s FP16 naive, 1,255 four-bit in L2, 1,508 fused; "
        "llama.cpp 1,110"
    )
}
"""GPU -> what the study that fusec starts from measured there, on kernels of its own."""
LEGEND = (
    "bytes us, flops us: the least that a token can take, by what it reads (from the L2 cache "
    "where the weights fit it, else from memory) and by its arithmetic",
    "-O0 to -O4: tokens a second that the cost model predicts for fusec's plan of that level; "
    "resident: with one launch for many tokens (--resident)",
    "binds: what the largest share of the fastest level's time goes into: launches (from one "
    "kernel to the next), chain (loads and sums that wait for each other), memory (reading "
    "weights) or compute (arithmetic)",
    "constants: where the times that the model reckons with were measured",
)
"""What the columns of the table mean."""

FMA_LANES = 128  # f32 multiply-adds a clock and SM, of every GPU in the table but A100
A100_LANES = 64
LEAST = 0.001  # us that a table shows as a number


@dataclass(frozen=True)
class Row:
    """A GPU: floors in microseconds, tokens a second by level, and the wall of the best level.

    `resident`: tokens a second with one launch for many tokens, of the levels that may have that.
    """

    gpu: str
    measured: str
    fits_l2: bool
    bytes_us: float
    flops_us: float
    tok_s: dict[int, float]
    resident: dict[int, float]
    walls: dict[str, float]
    binds: str
    note: str

    @property
    def floor(self) -> float:
        """Microseconds a token that no plan can beat."""
        return max(self.bytes_us, self.flops_us)


def run(
    path: Path,
    names: Sequence[str],
    levels: Sequence[int],
    position: int,
    measured: Sequence[Path] = (),
    note: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """The table as plain data. `names` empty: every GPU that is known, and the ASICs."""
    check_levels(levels)
    if position < 0:
        raise FusecError(f"--position: expected at least 0, found {position}")
    known = [gpus.find(name) for name in names] or list(gpus.all_gpus().values())
    model = Model.open(path)
    if position >= model.config.context:
        raise FusecError(
            f"--position: expected at most {model.config.context - 1}, as the model was trained "
            f"for {model.config.context} positions, found {position}"
        )
    longer = position + 1 if position >= DEFAULT_CONTEXT else None
    context = model.check_context(longer, DEFAULT_CONTEXT)
    graph = model.graph(tokens=1, context=context, kv="f16")
    nbytes = needed(graph, position)
    rows, finals = [], {}
    for number, gpu in enumerate(known):
        note(gpu.name, number, len(known))
        plans = {}
        for level, final, plan in plans_of(graph, gpu, levels):
            plans[level], finals[level] = plan, final
        rows.append(_row(gpu, graph, plans, position, nbytes))
    data = {
        "model": path.stem,
        "position": position,
        "weights_bytes": sum(v.nbytes for v in graph.weights),
        "bytes": nbytes,
        "flops": sum(flops(n) for n in graph.nodes),
        "steps": {level: critical_path(final) for level, final in finals.items()},
        "rows": [{**asdict(row), "floor": row.floor} for row in rows],
        "asics": [] if names else [_asic(asic, graph, nbytes) for asic in gpus.ASICS],
        "study": STUDY,
    }
    data["measured"] = list(_compared(data, measured))
    return data


def plans_of(
    graph: Graph, gpu: Gpu, levels: Sequence[int]
) -> Iterator[tuple[int, Graph, LaunchPlan]]:
    """(level, scheduled graph, plan) on a GPU, lowest level first.

    A level goes on from what the one below made, where it begins with the same passes: all do.
    """
    done: tuple[Pass, ...] = ()
    fused = graph
    for level in sorted(levels):
        options, passes = Options(gpu.arch, level), LEVELS[level]
        limits = driver.limits_of(options, gpu)
        if passes[: len(done)] != done:
            done, fused = (), graph
        *stages, scheduled = run_passes(fused, (*passes[len(done) :], Schedule()), limits)
        done, fused = passes, stages[-1].graph
        yield level, scheduled.graph, driver.plan_of(scheduled.graph, options, limits)


def needed(graph: Graph, position: int) -> int:
    """Bytes that a token needs whatever the plan: weights once, KV cache up to the position."""
    rows = (dtype(n.inputs[1].dtype).nbytes(n.inputs[1].shape[1:])
            for n in graph.nodes if op(n.op).role == "heads")  # fmt: skip
    return weight_bytes_read(graph) + 2 * (position + 1) * sum(rows)


def _row(gpu: Gpu, graph: Graph, plans: dict[int, LaunchPlan], position: int, nbytes: int) -> Row:
    fits = cost.resident(next(iter(plans.values())), gpu)
    times = {level: cost.token_us(p, gpu, position=position) for level, p in plans.items()}
    residents = {n: cost.resident_us(p, gpu, position=position) for n, p in plans.items()}
    best = min(times, key=times.__getitem__)
    costs = cost.token_costs(plans[best], gpu, position=position)
    walls = {
        "launches": sum(c.boundary for c in costs) + cost.around_us(plans[best], gpu),
        "chain": sum(c.chain for c in costs),
        "memory": sum(c.memory for c in costs if c.memory > c.compute),
        "compute": sum(c.compute for c in costs if c.memory <= c.compute),
    }
    lanes = A100_LANES if gpu.arch == "sm_80" else FMA_LANES
    rate = 2 * lanes * gpu.sms * gpu.clock_ghz  # 1e9 operations a second
    return Row(
        gpu.name,
        gpu.measured,
        fits,
        nbytes / (gpu.cache_bytes if fits else gpu.memory_bytes) / 1e3,
        sum(flops(n) for n in graph.nodes) / rate / 1e3,
        {level: 1e6 / us for level, us in times.items()},
        {level: 1e6 / us for level, us in residents.items() if us is not None},
        walls,
        max(walls, key=walls.__getitem__),
        STUDY.get(gpu.name, ""),
    )


def _asic(asic: gpus.Asic, graph: Graph, nbytes: int) -> dict[str, Any]:
    """Bytes over the chip's bandwidth, if the weights fit; how many chips they fill if not."""
    weights = sum(v.nbytes for v in graph.weights)
    chips = -(-weights // int(asic.memory_bytes)) if asic.memory_bytes else None
    floor = nbytes / asic.gb_s / 1e3 / chips if asic.gb_s and chips else None
    return {"name": asic.name, "chips": chips, "bytes_us": floor, "published": asic.published,
            "source": asic.source}  # fmt: skip


def _compared(data: dict[str, Any], files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Measured tokens beside predicted ones, from what `fusec bench` or `profile` wrote."""
    rows = {row["gpu"]: row for row in data["rows"]}
    for path in files:
        for gpu, level, us in _measurements(path):
            name = gpus.find(gpu).name if gpus.knows(gpu) else gpu
            if name in rows and level in rows[name]["tok_s"]:
                guess = 1e6 / rows[name]["tok_s"][level]
                yield {"gpu": name, "level": level, "measured_us": us, "predicted_us": guess,
                       "error": guess / us - 1, "file": str(path)}  # fmt: skip


def _measurements(path: Path) -> Iterator[tuple[str, int, float]]:
    """GPU, level and microseconds a token of captured graphs, the first of each level."""
    try:
        data = json.loads(path.read_text())
        gpu = data["gpu"]
        if "walls" in data:
            found = [(int(data["level"]), float(data["token"]))]
        else:
            found = [
                (int(r["level"]), float(r["us_per_token"]))
                for r in data["results"]
                if r["launch"] == "graph" and r["l2"] in ("off", "auto")
            ]
    except OSError as error:
        raise FusecError(f"{path}: cannot be read: {reason(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise FusecError(f"{path}: expected what fusec bench or profile -o writes") from None
    seen = set()
    for level, us in found:
        if gpu and level not in seen:
            seen.add(level)
            yield str(gpu), level, us


def tables(data: dict[str, Any]) -> Iterator[Table]:
    """GPUs, then chips that keep weights on the die, then predictions against measurements."""
    levels = list(data["rows"][0]["tok_s"]) if data["rows"] else []
    resident = sorted({level for row in data["rows"] for level in row["resident"]})
    titles = [*(f"-O{n}" for n in levels), *(f"-O{n} resident" for n in resident)]
    found = make_table("GPUs: floor us a token; tok/s predicted by level")
    found.add_column("GPU")
    for title in ("fits L2", "bytes us", "flops us", *titles):
        found.add_column(title, justify="right")
    found.add_column("binds")
    found.add_column("constants", overflow="fold")
    for row in data["rows"]:
        walls = sum(row["walls"].values())
        found.add_row(
            row["gpu"],
            "yes" if row["fits_l2"] else "no",
            f"{row['bytes_us']:.1f}",
            f"{row['flops_us']:.1f}",
            *(f"{row['tok_s'][n]:,.0f}" for n in levels),
            *(f"{row['resident'][n]:,.0f}" if n in row["resident"] else "-" for n in resident),
            f"{row['binds']} {row['walls'][row['binds']] / walls:.0%}",
            row["measured"],
        )
    yield found
    if data["asics"]:
        chips = make_table("chips that keep weights on the die: bytes alone, no launches")
        chips.add_column("chip")
        for title in ("chips", "bytes us", "published"):
            chips.add_column(title, justify="right")
        chips.add_column("source", overflow="fold")
        for asic in data["asics"]:
            count = "" if asic["chips"] is None else str(asic["chips"])
            us = "" if asic["bytes_us"] is None else _small(asic["bytes_us"])
            chips.add_row(asic["name"], count, us, asic["published"], asic["source"])
        yield chips
    if data["measured"]:
        errors = make_table("predicted against measured, us a token")
        errors.add_column("GPU")
        for title in ("level", "measured", "predicted", "error"):
            errors.add_column(title, justify="right")
        errors.add_column("file", overflow="fold")
        for item in data["measured"]:
            times = (f"{item[key]:,.1f}" for key in ("measured_us", "predicted_us"))
            level, error = f"-O{item['level']}", f"{item['error']:+.0%}"
            errors.add_row(item["gpu"], level, *times, error, item["file"])
        yield errors


def _small(us: float) -> str:
    return f"{us:.3f}" if us >= LEAST else f"< {LEAST}"


def lines(data: dict[str, Any]) -> Iterator[str]:
    """What the columns mean, what the plan needs, and what the study measured."""
    yield from LEGEND
    steps = ", ".join(f"-O{level} {count}" for level, count in data["steps"].items())
    yield (
        f"{data['model']} at position {data['position']}: {size(data['bytes'])} and "
        f"{data['flops'] / 1e6:,.0f} million operations a token; dependent steps {steps}"
    )
    for row in data["rows"]:
        if row["note"]:
            yield f"{row['gpu']}: {row['note']}"
