"""What the command line prints about a compilation: the stage table, the plan, and their JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from fusec.ir.ops import bytes_moved, flops
from fusec.ir.pages import cache_bytes
from fusec.ir.plan import LaunchPlan, Size
from fusec.writer import count

if TYPE_CHECKING:
    from fusec.compiled import Compilation
    from fusec.passes.pipeline import Stage


def summary(compiled: Compilation) -> dict[str, Any]:
    """The compilation as plain data, as `fusec inspect --json` prints it."""
    from fusec.passes.schedule import critical_path

    plan, graph = compiled.plan, compiled.graph
    return {
        "name": plan.name,
        "target": plan.target,
        "level": plan.level,
        "context": compiled.context,
        "kv": compiled.kv,
        "tokens": plan.tokens,
        "dispatches": plan.dispatches,
        "critical_path": critical_path(graph),
        "kernels": kernel_counts(plan),
        "sizes": {x.kernel: asdict(x.size) for x in plan.launches if x.size},
        "layouts": dict(Counter(t.layout or "file" for t in plan.weights.values())),
        "tuned": {k.name: str(k.choice) for k in plan.kernels if k.choice},
        "stages": [stage_data(stage) for stage in compiled.stages],
        "arena_bytes": plan.arena_bytes,
        "weights_bytes": plan.weights_bytes,
        "states_bytes": cache_bytes(graph),
        "first_states_bytes": cache_bytes(graph, 1),
        "bytes_moved": sum(bytes_moved(n) for n in graph.nodes),
        "flops": sum(flops(n) for n in graph.nodes),
    }


def stage_data(stage: Stage) -> dict[str, Any]:
    """One stage as plain data."""
    return {
        "pass": stage.name,
        "rule": stage.equation,
        "before": stage.before,
        "after": stage.after,
        "ms": round(stage.ms, 3),
        "hits": stage.hits,
        "refused": [
            {"rule": r.rule, "nodes": list(r.nodes), "reason": r.reason} for r in stage.refused
        ],
    }


def kernel_counts(plan: LaunchPlan) -> dict[str, int]:
    """Kernel name -> launches of it, in order of first launch."""
    return dict(Counter(launch.kernel for launch in plan.launches))


def stage_table(stages: list[dict[str, Any]]) -> Table:
    """The passes: nodes before and after, time, hits, refusals, and what the rule merges."""
    table = make_table("stages")
    table.add_column("pass", no_wrap=True)
    table.add_column("nodes", justify="right")
    table.add_column("ms", justify="right")
    table.add_column("hits", justify="right")
    table.add_column("refused", justify="right")
    table.add_column("merges", overflow="fold")
    for stage in stages:
        nodes = f"{stage['before']} -> {stage['after']}"
        counts = [str(stage["hits"]), str(len(stage["refused"]))] if stage["rule"] else ["", ""]
        merges = stage["rule"].split(" => ")[0]
        table.add_row(stage["pass"], nodes, f"{stage['ms']:.1f}", *counts, merges)
    return table


def make_table(title: str) -> Table:
    """An empty table in the style of all of them."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def refusal_lines(stages: list[dict[str, Any]]) -> list[str]:
    """Each reason once: how often it was given, and below that an example."""
    found: dict[tuple[str, str], list[str]] = {}
    for stage in stages:
        for refusal in stage["refused"]:
            key = (refusal["rule"], refusal["reason"].split(":")[0])
            found.setdefault(key, []).append(f"{' + '.join(refusal['nodes'])}: {refusal['reason']}")
    return [
        line
        for (rule, _), examples in found.items()
        for line in (f"refused {len(examples)}x {rule}, for example", f"  {examples[0]}")
    ]


def plan_table(data: dict[str, Any]) -> Table:
    """The kernels of the plan and how often each is launched."""
    table = make_table("plan")
    table.add_column("kernel", overflow="fold")
    table.add_column("launches", justify="right")
    tuned, sizes = data["tuned"], data["sizes"]
    if sizes:
        table.add_column("size", overflow="fold")
    if tuned:
        table.add_column("tuned", overflow="fold")
    for name, launches in data["kernels"].items():
        size = [str(Size(**sizes[name]))] if sizes else []
        table.add_row(name, str(launches), *size, *([tuned.get(name, "")] if tuned else []))
    return table


def code_table(described: Mapping[str, dict[str, Any]]) -> Table:
    """What each kernel takes of a multiprocessor, from what its backend says of it."""
    found = make_table("kernels")
    found.add_column("kernel", overflow="fold")
    for title in ("blocks", "threads", "registers", "spilled", "shared"):
        found.add_column(title, justify="right")
    for name, d in described.items():
        sizes = (f"{d[key]} B" for key in ("spill_bytes", "shared_bytes"))
        found.add_row(name, str(d["grid"]), str(d["threads"]), str(d["registers"]), *sizes)
    return found


def plan_line(data: dict[str, Any]) -> str:
    """The plan in one sentence."""
    step = "a token" if data["tokens"] == 1 else f"a step of {data['tokens']} rows"
    return (
        f"{data['name']} at -O{data['level']} for {data['target']}: "
        f"{dispatches(data['dispatches'], step)}; "
        f"critical path {data['critical_path']}; weights {size(data['weights_bytes'])}, "
        f"KV cache {size(data['first_states_bytes'])} at first and "
        f"{size(data['states_bytes'])} when full, arena {size(data['arena_bytes'])}"
    )


def dispatches(counts: Mapping[str, Any], step: str = "a token") -> str:
    """`LaunchPlan.dispatches` in words: `27 dispatches a token (25 forward, ...), 6 a layer`."""
    groups = {"forward": counts["forward"], **counts["other"]}
    each = ", ".join(f"{n} {group}" for group, n in groups.items())
    total = count(sum(groups.values()), "dispatch")
    return f"{total} {step} ({each}), {counts['per_layer']} a layer"


def size(nbytes: float) -> str:
    """Bytes for people, in powers of ten as bandwidths and files are."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:,.1f} {unit}"
    return f"{nbytes:,.0f} bytes"
