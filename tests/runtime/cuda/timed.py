"""A fake driver with a clock: every kernel takes what a made-up machine would need for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

from tests.runtime.cuda.fake import FakeDriver, Kernels, _words


@dataclass
class Times:
    """Microseconds of the made-up machine, under the names `fusec calibrate` gives them."""

    boundary: float = 0.7
    gap: float = 2.0
    touch: float = 1.1
    early: float = 0.4
    early_touch: float = 0.8
    load: float = 0.15
    far_load: float = 0.5
    tree: float = 0.06
    barrier: float = 0.02
    instruction: float = 0.002
    grid_barrier: float = 1.0
    exchange: float = 1.5
    cluster_barrier: float = 0.2
    cluster_exchange: float = 0.5
    memory_bytes: float = 1000.0
    cache_bytes: float = 2000.0
    sm_bytes: float = 70.0
    instructions: float = 20_000.0
    kernels: dict[str, Callable[..., float]] = field(default_factory=dict)
    """Kernel -> its duration, of its pointers."""


class TimedDriver(FakeDriver):
    """`now`: microseconds that the stream has been busy."""

    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0, CU_EVENT_DISABLE_TIMING=2)

    def __init__(self, kernels: Kernels, times: Times, **options):
        super().__init__(kernels, **options)
        self.times, self.now, self.chases = times, 0.0, 0
        self.attributes |= {
            "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": 16,
            "CU_DEVICE_ATTRIBUTE_CLOCK_RATE": 1_980_000,
            "CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE": 1 << 22,
        }
        self.CUlaunchAttributeValue = lambda: SimpleNamespace(clusterDim=SimpleNamespace())

    def _cuStreamWaitEvent(self, _stream, _event, _flags):
        return self._nothing()

    def _cuEventCreate(self, _flags):
        return [0.0]

    def _cuEventDestroy(self, _event):
        return self._nothing()

    def _cuEventRecord(self, event, _stream):
        event[0] = self.now
        return self._nothing()

    def _cuEventElapsedTime(self, start, end):
        return (end[0] - start[0]) / 1e3

    def _cuGraphLaunch(self, graph, stream):
        self.now += self.times.gap
        return super()._cuGraphLaunch(graph, stream)

    def _cuLaunchKernelEx(self, config, function, parameters, _extra):
        pointers, _ = parameters

        def pass_time() -> None:
            self.now += self._duration(function, config, pointers)

        self._do(pass_time)
        if function in self.kernels:
            return super()._cuLaunchKernelEx(config, function, parameters, _extra)
        self.launched.append(SimpleNamespace(name=function, config=config))
        return self._nothing()

    def _duration(self, name: str, config, pointers) -> float:  # noqa: PLR0911
        t = self.times
        if name == "prefetch":  # beside the stream
            return 0.0
        if name in t.kernels:
            return t.kernels[name](*pointers)
        if name == "stream":
            mask, turns = (int(w) for w in _words(pointers[2], 2))
            nbytes = turns * config.gridDimX * config.blockDimX * 64
            near = 4 * (mask + 1) <= self.attributes["CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE"]
            whole = t.cache_bytes if near else t.memory_bytes
            return t.boundary + nbytes / min(whole, config.gridDimX * t.sm_bytes) / 1e3
        if name == "chase":
            count = int(_words(pointers[2])[0])
            return t.boundary + count * (t.load if count > 10_000 else t.far_load)
        if name == "arithmetic":
            work = 8 * int(_words(pointers[1])[0]) * config.gridDimX * config.blockDimX
            return t.boundary + work / t.instructions / 1e3
        if name.startswith("line_"):
            return t.boundary + int(name[5:]) * t.instruction
        per_turn = {"tree": 1, "block_barrier": 0, "grid_barrier": 1, "exchange": 1}
        per_turn |= {"cluster_barrier": 0, "cluster_exchange": 0}
        if name in per_turn:
            cost = t.barrier if name == "block_barrier" else getattr(t, name)
            return t.boundary + int(_words(pointers[per_turn[name]])[0]) * cost
        alone = {"touch": t.touch, "early": t.early, "early_touch": t.early_touch}
        return alone.get(name, t.boundary)
