"""What a benchmark asks the GPU itself: its read bandwidth, and times by its own clock."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np

from fusec.backends import cuda
from fusec.codegen.cuda import probe
from fusec.codegen.cuda.arch import arch_for
from fusec.codegen.cuda.toolchain import CudaKernel
from fusec.errors import FusecError
from fusec.runtime.cuda.driver import Driver, Executable
from fusec.runtime.cuda.engine import CudaEngine
from fusec.runtime.cuda.memory import Memory
from fusec.runtime.engine import Engine
from fusec.runtime.sampling import Sampling

REPEATS = 20


def kernels(arch: str, *wanted: CudaKernel) -> list[Executable]:
    """Measuring kernels, compiled."""
    named = {kernel.name: kernel for kernel in wanted}
    return list(cuda.executables(named, cuda.build(named, arch)).values())


def read_bandwidth(arch: str) -> float:
    """GB/s at which a kernel reads a GiB of device memory, the median of several runs."""
    driver = Driver()
    stream = driver.stream()
    memory = Memory(driver, stream)
    try:
        (executable,) = kernels(arch, probe.read())
        function = driver.load(executable)
        data = memory.zeros(probe.READ_BYTES, "a gibibyte to read")
        out = memory.zeros(4, "a word")
        times = []
        for _ in range(REPEATS):
            start, end = driver.event(), driver.event()
            driver.record(start, stream)
            driver.launch(function, (data, out), stream, ())
            driver.record(end, stream)
            driver.synchronize(stream)
            times.append(driver.seconds_between(start, end))
        return probe.READ_BYTES / statistics.median(times[1:]) / 1e9
    finally:
        memory.close()
        driver.close()


def device_times(engine: Engine, prompt: list[int], count: int) -> tuple[float, float]:
    """Microseconds from a token's first kernel to its last, and from there to the next's first.

    Medians over `count` tokens. The clock is read by kernels put around the token, so both times
    have one kernel boundary in them that decoding has not.
    """
    if not isinstance(engine, CudaEngine):
        raise FusecError("device times need the CUDA target")
    workspace, loop = engine.workspace, engine.loop
    workspace.driver.activate()
    begin, end = kernels(arch_for(*workspace.driver.capability).name, *probe.stamps())
    workspace.add(begin)
    workspace.add(end)
    times = workspace.memory.zeros(16 * count, "the times")
    first = times - 16 * loop.steps  # the counter goes on from the tokens before

    def enqueue() -> None:
        workspace.launch(begin.name, (loop.counter, first))
        loop.enqueue_greedy()
        workspace.launch(end.name, (loop.counter, first))

    graph = workspace.capture(enqueue)
    loop.start(prompt, Sampling())
    for _ in range(count):
        loop.make_room(1)
        workspace.driver.replay(graph, workspace.stream)
        loop.steps += 1
    found = workspace.memory.read(times, (count, 2), np.dtype(np.uint64)).astype(np.int64)
    return _median(found[1:, 1] - found[1:, 0]), _median(found[1:, 0] - found[:-1, 1])


def _median(nanoseconds: Iterable[int]) -> float:
    return float(statistics.median(nanoseconds)) / 1e3
