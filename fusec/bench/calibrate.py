"""`fusec calibrate`: the cost model's constants of this machine's GPU, each by its own kernel."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from fusec import backends
from fusec.bench.facts import machine
from fusec.bench.steady import difference
from fusec.bench.stopwatch import Stopwatch, executables
from fusec.codegen.cuda import microbench, probe
from fusec.codegen.cuda.arch import arch_for
from fusec.report import make_table
from fusec.runtime.cuda.driver import Driver, Function
from fusec.runtime.cuda.memory import Memory

Note = Callable[[str], None]

NEAR_BYTES = 16 << 20  # inside any L2 of the GPUs we know that have a large one
CHASE_NEAR, CHASE_FAR = 4 << 20, 512 << 20
LINK = 128  # bytes between two links of a chase: a cache line each
EAGER = 1000  # launches outside of a graph: enough for the host to wake up
COPIES = 8  # of the straight-line kernel, so that code is fetched as in a token
TURN_BYTES = 64  # that a thread of `stream` reads in a turn


def run(note: Note = lambda _: None, driver: Driver | None = None) -> dict[str, Any]:
    """Measure the first GPU. Returns what `--json` writes: facts, constants, and where from."""
    driver = driver or Driver()
    stream = driver.stream()
    memory = Memory(driver, stream)
    try:
        watch = Stopwatch(driver, stream, memory, executables(driver))
        facts: dict[str, Any] = {
            "name": driver.name,
            "arch": arch_for(*driver.capability).name,
            "sms": driver.attribute("MULTIPROCESSOR_COUNT"),
            "clock_ghz": driver.attribute("CLOCK_RATE") / 1e6,
            "l2_bytes": driver.attribute("L2_CACHE_SIZE"),
        }
        constants: dict[str, float] = {}
        for title, measure in _EXPERIMENTS.items():
            note(title)
            constants |= measure(watch, facts["sms"])
        return {
            **facts,
            **constants,
            "date": datetime.date.today().isoformat(),
            **machine(backends.get(facts["arch"])),
        }
    finally:
        memory.close()
        driver.close()


UNITS = {
    "boundary": "us, a kernel that does nothing behind another in a graph",
    "block": "us, each further block of it",
    "touch": "us, a kernel that loads and stores a vector",
    "early": "us, a kernel that does nothing, with dependent launch",
    "early_touch": "us, a kernel that loads and stores a vector, with dependent launch",
    "gap": "us, from one graph to the next",
    "eager": "us, a launch outside of a graph",
    "round_trip": "us, a launch and a word read back",
    "memory_bytes": "GB/s from memory",
    "cache_bytes": "GB/s from L2",
    "sm_bytes": "GB/s from L2 by one SM",
    "load": "us, a load that hits L2",
    "far_load": "us, a load from memory",
    "tree": "us, a sum over the lanes of a warp",
    "barrier": "us, a barrier of a block",
    "instruction": "us, an instruction of code that runs once",
    "instructions": "G integer instructions of threads a second",
    "grid_barrier": "us, a barrier of a grid",
    "exchange": f"us, {microbench.VECTOR} words handed to every block of a grid",
    "cluster_barrier": f"us, a barrier of a cluster of {microbench.CLUSTER}",
    "cluster_exchange": f"us, {microbench.VECTOR} words handed to every block of a cluster",
}
"""Constant -> what it is."""


def table(data: dict[str, Any]) -> Table:
    """The constants, a line each."""
    found = make_table(f"{data['name']}: {data['sms']} SMs, {data['clock_ghz']} GHz")
    found.add_column("constant")
    found.add_column("measured", justify="right")
    found.add_column("what", overflow="fold")
    for name, what in UNITS.items():
        if name in data:
            found.add_row(name, f"{data[name]:,.4g}", what)
    return found


def _launches(watch: Stopwatch, sms: int) -> dict[str, float]:
    """Kernel boundaries in a graph, launches outside of one, a round trip to the host."""
    data = watch.memory.zeros(4 * 64 * sms * microbench.THREADS, "vectors")
    half = data + 4 * 32 * sms * microbench.THREADS
    nothing = watch.function("nothing", sms, microbench.THREADS)
    found = {"boundary": watch.node(lambda _: watch.launch(nothing, data))}
    many = replace(nothing, grid=32 * sms)
    boundary = found["boundary"]
    blocks = difference(
        lambda: (watch.node(lambda _: watch.launch(many, data)), boundary),
        f"a launch of {32 * sms} blocks beside one of {sms}",
    )
    found["block"] = blocks / (31 * sms)
    found["gap"] = difference(
        lambda: (watch.graph(lambda: _each(watch, nothing, data, 50), 40), 50 * boundary),
        "a graph beside its launches",
    )

    def ping(name: str, attributes: Sequence[Any] = ()) -> Callable[[int], None]:
        function = watch.function(name, sms)

        def enqueue(i: int) -> None:
            pointers = (data, half) if i % 2 else (half, data)
            watch.launch(function, *pointers, attributes=attributes)

        return enqueue

    found["touch"] = watch.node(ping("touch"))
    found["early"], found["early_touch"] = found["boundary"], found["touch"]
    if "early" in watch.kernels:
        overlapping = watch.function("early", sms, microbench.THREADS)
        how = [watch.driver.early()]
        found["early"] = watch.node(lambda _: watch.launch(overlapping, data, attributes=how))
        found["early_touch"] = watch.node(ping("early_touch", how))
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(EAGER):
            watch.launch(nothing, data)
        watch.driver.synchronize(watch.stream)
        times.append((time.perf_counter() - start) / EAGER)
    found["eager"] = 1e6 * statistics.median(times)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        watch.launch(nothing, data)
        watch.memory.read(data, (1,), np.dtype(np.uint32))
        times.append(time.perf_counter() - start)
    found["round_trip"] = 1e6 * statistics.median(times)
    return found


def _each(watch: Stopwatch, function: Function, pointer: int, count: int) -> None:
    for _ in range(count):
        watch.launch(function, pointer)


def _bandwidths(watch: Stopwatch, sms: int) -> dict[str, float]:
    """Bytes a second from memory, from L2, and from L2 by few SMs."""
    data, out = watch.memory.zeros(probe.READ_BYTES, "a gibibyte to read"), watch.words(0)
    function = watch.function("stream", 2 * sms)

    def rate(blocks: int, footprint: int, few: int, many: int) -> float:
        shape = replace(function, grid=blocks)

        def once(turns: int) -> float:
            params = watch.words(footprint // 4 - 1, turns)
            return watch.once(lambda: watch.launch(shape, data, out, params))

        nbytes = (many - few) * blocks * function.threads * TURN_BYTES
        return nbytes / (watch.slope(once, few, many, noise=0.0) * (many - few)) / 1e3

    whole = probe.READ_BYTES // (2 * sms * function.threads * TURN_BYTES)
    return {
        "memory_bytes": rate(2 * sms, probe.READ_BYTES, whole // 4, whole),
        "cache_bytes": rate(2 * sms, NEAR_BYTES, 40, 240),
        "sm_bytes": rate(8, NEAR_BYTES, 200, 1200) / 8,
    }


def _latencies(watch: Stopwatch, _sms: int) -> dict[str, float]:
    """A dependent load from L2 and from memory, by following links in one random cycle."""
    function = watch.function("chase")

    def load(nbytes: int, few: int, many: int) -> float:
        table, out = watch.memory.upload(links(nbytes), "links to follow"), watch.words(0)
        return watch.turn(lambda params: watch.launch(function, table, out, params), few, many)

    return {"load": load(CHASE_NEAR, 33_000, 66_000), "far_load": load(CHASE_FAR, 1_000, 9_000)}


def links(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """u32[nbytes / 4]: one random cycle through the first word of every LINK bytes."""
    step = LINK // 4
    order = np.random.default_rng(0).permutation(nbytes // LINK).astype(np.uint32)
    order = np.roll(order, -int(np.flatnonzero(order == 0)[0]))  # begin where the kernel does
    table = np.zeros(nbytes // 4, np.uint32)
    table[order * step] = np.roll(order, -1) * step
    return table


def _inside(watch: Stopwatch, sms: int) -> dict[str, float]:
    """Steps inside a kernel: sums over a warp, block barriers, instructions run once, many."""
    data, out = watch.memory.zeros(4 * sms * microbench.THREADS, "a vector"), watch.words(0)
    tree, barrier = watch.function("tree"), watch.function("block_barrier")
    arithmetic = watch.function("arithmetic", 2 * sms)
    turn = watch.turn(lambda p: watch.launch(arithmetic, out, p), 500, 4500)

    def line(count: int) -> float:
        kernel = watch.kernels[f"line_{count}"]
        copies = [replace(watch.driver.load(kernel), grid=sms) for _ in range(COPIES)]
        return watch.node(lambda i: watch.launch(copies[i % COPIES], data))

    return {
        "tree": watch.turn(lambda p: watch.launch(tree, data, p), 500, 4500),
        "barrier": watch.turn(lambda p: watch.launch(barrier, p), 500, 4500),
        "instruction": watch.slope(line, microbench.LINE_SHORT, microbench.LINE_LONG),
        "instructions": microbench.CHAINS * arithmetic.grid * arithmetic.threads / turn / 1e3,
    }


def _exchanges(watch: Stopwatch, sms: int) -> dict[str, float]:
    """Barriers and exchanges between blocks: over the grid, and inside a cluster."""
    data, out = watch.memory.zeros(8 * microbench.VECTOR, "a vector"), watch.words(0)
    counter = watch.words(0)

    def meet(name: str, *pointers: int) -> float:
        function = watch.function(name, sms)

        def enqueue(params: int) -> None:
            watch.driver.zero(counter, 4, watch.stream)
            watch.launch(function, counter, params, *pointers)

        return watch.turn(enqueue, 100, 1100)

    found = {"grid_barrier": meet("grid_barrier"), "exchange": meet("exchange", data, out)}
    if "cluster_barrier" not in watch.kernels:
        return found
    attributes = [_cluster(watch.driver)]
    for name, pointers in (("cluster_barrier", ()), ("cluster_exchange", (out,))):
        function = watch.function(name, microbench.CLUSTER)

        def enqueue(params: int, f: Any = function, p: tuple[int, ...] = pointers) -> None:
            watch.launch(f, params, *p, attributes=attributes)

        found[name] = watch.turn(enqueue, 100, 1100)
    return found


def _cluster(driver: Driver) -> Any:
    """The launch attribute of a grid in clusters of microbench.CLUSTER blocks."""
    api = driver.api
    value, attribute = api.CUlaunchAttributeValue(), api.CUlaunchAttribute()
    dimension = value.clusterDim
    dimension.x, dimension.y, dimension.z = microbench.CLUSTER, 1, 1
    attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    attribute.value = value
    return attribute


_EXPERIMENTS: dict[str, Callable[[Stopwatch, int], dict[str, float]]] = {
    "launches": _launches,
    "bandwidths": _bandwidths,
    "latencies": _latencies,
    "inside a kernel": _inside,
    "between blocks": _exchanges,
}
