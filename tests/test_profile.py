"""`fusec profile`: the experiments on a made-up GPU, and on this CPU."""

from __future__ import annotations

import json

import pytest

from fusec import driver
from fusec.backends import cuda
from fusec.bench import gpu as bench_gpu
from fusec.bench import profile, profile_gpu
from fusec.bench.experiment import KernelTime, Measured, resident
from fusec.codegen.cuda import microbench
from fusec.runtime.cuda.driver import Driver, Executable
from tests.runtime.cuda import fake
from tests.runtime.cuda.timed import TimedDriver, Times

TOKENS = 6
BOUNDARY, COLD = 0.7, 0.25


def executable(name: str, threads: int = 32) -> Executable:
    return Executable(name, "sm_90a", name.encode(), 1, threads)


@pytest.fixture
def made_up(tiny_model, monkeypatch):
    """The tiny model on a GPU whose kernels take 1, 2, ... us, and COLD more on other weights."""
    return profiled(driver.compile(tiny_model, target="sm_90a", level=2, context=64), monkeypatch)


def profiled(compiled, monkeypatch):
    measuring = microbench.kernels("sm_90a")
    durations = {k.name: 1.0 + n for n, k in enumerate(compiled.plan.kernels)}
    last: dict[str, tuple[int, ...]] = {}

    def duration(name):
        weights = [i for i, a in enumerate(args_of(compiled.plan, name)) if a.kind == "weight"]

        def of(*pointers: int) -> float:
            read = tuple(pointers[i] for i in weights)
            cold = weights and last.get(name, read) != read
            last[name] = read
            return durations[name] + (COLD if cold else 0.0)

        return of

    times = Times(kernels={name: duration(name) for name in durations})
    quiet = dict.fromkeys(compiled.kernels | measuring, lambda *_: None)
    api = TimedDriver(quiet | fake.CONTROL, times)
    monkeypatch.setattr(cuda, "Driver", lambda: Driver(api))
    monkeypatch.setattr(cuda, "build", lambda *_: {})
    monkeypatch.setattr(cuda, "PACKING", fake.UNPACKED)
    monkeypatch.setattr(cuda, "executables", lambda kernels, _: {n: executable(n) for n in kernels})
    monkeypatch.setattr(bench_gpu, "device_times", lambda *_: (100.0, 2.5))
    monkeypatch.setattr(profile_gpu, "device_times", lambda *_: (100.0, 2.5))
    known = {name: executable(name, kernel.threads) for name, kernel in measuring.items()}
    monkeypatch.setattr(profile_gpu, "executables", lambda _driver: known)
    return compiled, durations, api, next(profile_gpu.measure(compiled, TOKENS, 0, lambda _: None))


def args_of(plan, kernel):
    return next(launch.args for launch in plan.launches if launch.kernel == kernel)


@pytest.mark.slow
def test_a_made_up_gpu_is_found_again(made_up):
    compiled, durations, api, found = made_up
    launches = compiled.plan.launches
    assert found.empties == pytest.approx(BOUNDARY * (len(launches) + 1))
    for name, duration in durations.items():
        assert found.kernels[name].alone == pytest.approx(duration)
        assert found.kernels[name].empty == pytest.approx(BOUNDARY)
    for launch, us in zip(launches, found.launch, strict=True):
        cold = us - durations[launch.kernel]  # the second launch of a kernel makes the first cold
        assert any(cold == pytest.approx(n * COLD, abs=1e-6) for n in range(3))
    assert sum(found.launch) == pytest.approx(found.streaming - api.times.gap)
    assert found.between == 2.5
    assert api.used == 0


@pytest.mark.slow
def test_launches_that_start_early_have_their_own_empty_ones(tiny_model, monkeypatch):
    compiled = driver.compile(tiny_model, target="sm_90a", level=3, context=64)
    compiled, _, api, found = profiled(compiled, monkeypatch)
    launches = compiled.plan.launches
    assert compiled.plan.overlaps
    # the plan's last launch stands for advance_best
    assert found.empties == pytest.approx(api.times.early * len(launches))
    for kernel in found.kernels.values():
        assert kernel.empty == pytest.approx(api.times.early)
    assert sum(found.launch) == pytest.approx(found.streaming - api.times.gap)


def test_walls_of_a_made_up_gpu(made_up):
    compiled, durations, _, found = made_up
    launches = compiled.plan.launches
    layered = [k for k in durations if sum(x.kernel == k for x in launches) > 1]
    weighted = {k for k in layered if any(a.kind == "weight" for a in args_of(compiled.plan, k))}
    cold = sum(x.kernel in weighted for x in launches)
    assert found.walls["memory"] == pytest.approx(COLD * cold)
    arithmetic = sum(durations[x.kernel] - BOUNDARY for x in launches)
    assert found.walls["compute"] == pytest.approx(arithmetic)


def test_naive_walls_add_what_the_host_does():
    kernels = {"a": KernelTime(10, 2.0, 0.5), "b": KernelTime(1, 0.4, 0.5)}
    naive = {"eager": 90.0, "eager, host sampling": 120.0}
    found = Measured(40.0, 38.0, 2.0, 6.0, 36.0, 30.0, [], kernels, naive)
    assert found.walls == {"between tokens": 2.0, "launches": 6.0, "memory": 6.0, "compute": 15.0}
    assert found.naive_walls == found.walls | {"between tokens": 32.0, "launches": 56.0}


def test_resident_puts_every_layer_on_the_first_ones_memory(tiny_model):
    plan = driver.compile(tiny_model).plan
    found = resident(plan)
    for kernel in plan.kernels:
        ours, theirs = (
            [[a for a in x.args if a.kind in ("weight", "state")] for x in p.launches
             if x.kernel == kernel.name]
            for p in (found, plan)
        )  # fmt: skip
        assert ours == [theirs[0]] * len(theirs)
    for ours, theirs in zip(found.launches, plan.launches, strict=True):
        assert ours.waits == theirs.waits
        assert [a for a in ours.args if a.kind == "arena"] == [
            a for a in theirs.args if a.kind == "arena"
        ]


@pytest.fixture(scope="module")
def on_cpu(tiny_model):
    """Of whatever machine the tests run on, which others may be using."""
    compiled = driver.compile(tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "contradictions", lambda *_: iter(()))
        return compiled, profile.run(compiled, TOKENS, threads=1)


def test_the_cpu_is_profiled(on_cpu):
    compiled, data = on_cpu
    data = json.loads(json.dumps(data))
    assert set(data["walls"]) == {"between tokens", "launches", "memory", "compute"}
    assert data["sum"] == pytest.approx(sum(data["walls"].values()))
    assert [x["node"] for x in data["launches"]] == [x.node for x in compiled.plan.launches]
    assert {n: k["launches"] for n, k in data["kernels"].items()} == {
        k.name: sum(x.kernel == k.name for x in compiled.plan.launches)
        for k in compiled.plan.kernels
    }
    # on a machine that others use, a token may take longer than its parts, which find quiet moments
    assert 0 < data["walls"]["launches"] < data["walls"]["compute"] < 3 * data["token"]
    parts = sum(x["us"] for x in data["launches"])
    assert parts == pytest.approx(data["streaming"], rel=0.7)


def test_the_largest_kernel_takes_longest(on_cpu):
    _, data = on_cpu
    mean = {k: v["alone"] for k, v in data["kernels"].items()}
    assert max(mean, key=mean.__getitem__).startswith(
        ("norm_matvec_512x96", "norm_matvec_silu_mul")
    )
