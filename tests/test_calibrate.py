"""`fusec calibrate`: the experiments find the constants of a machine made up for them."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.bench import calibrate
from fusec.codegen.cuda import microbench, probe
from fusec.codegen.cuda.build import compile_many
from fusec.runtime.cuda.driver import Driver, Executable
from tests.runtime.cuda.timed import TimedDriver, Times

MEASURED = (
    *("boundary", "gap", "touch", "early", "early_touch", "load", "far_load", "tree", "barrier"),
    *("instruction", "grid_barrier", "exchange", "cluster_barrier", "cluster_exchange"),
    *("memory_bytes", "cache_bytes", "sm_bytes", "instructions"),
)


@pytest.fixture
def made_up(monkeypatch):
    """The experiments on a machine of known constants, with small buffers."""
    kernels = microbench.kernels("sm_90a")
    known = {
        name: Executable(name, "sm_90a", name.encode(), 1, kernel.threads)
        for name, kernel in kernels.items()
    }
    monkeypatch.setattr(calibrate, "executables", lambda _driver: known)
    monkeypatch.setattr(calibrate, "machine", lambda _: {})
    monkeypatch.setattr(calibrate, "CHASE_NEAR", 1 << 16)
    monkeypatch.setattr(calibrate, "CHASE_FAR", 1 << 18)
    monkeypatch.setattr(calibrate, "NEAR_BYTES", 1 << 20)
    monkeypatch.setattr(probe, "READ_BYTES", 1 << 24)
    api = TimedDriver(dict.fromkeys(kernels, lambda *_: None), Times())
    return api, calibrate.run(driver=Driver(api))


def test_the_constants_of_a_machine_are_found(made_up):
    api, found = made_up
    for name in MEASURED:
        assert found[name] == pytest.approx(getattr(api.times, name), rel=1e-6), name
    assert (found["sms"], found["clock_ghz"], found["l2_bytes"]) == (16, 1.98, 1 << 22)
    assert found["name"] == "Fake GPU"


def test_everything_is_given_back(made_up):
    api, _ = made_up
    assert api.used == 0
    assert api.log.count("cuEventCreate") == api.log.count("cuEventDestroy")
    assert api.log.count("cuGraphInstantiate") == api.log.count("cuGraphExecDestroy")


def test_dependent_launch_and_clusters_are_asked_for(made_up):
    api, _ = made_up
    asked = {}
    for launch in api.launched:
        for attribute in getattr(launch.config, "attrs", ()):
            asked.setdefault(launch.name, set()).add(attribute.id)
    early = "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION"
    cluster = "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION"
    assert asked == {
        "early": {early},
        "early_touch": {early},
        "cluster_barrier": {cluster},
        "cluster_exchange": {cluster},
    }


def test_links_are_one_cycle_through_every_line():
    table = calibrate.links(1 << 14)
    place, seen = 0, []
    for _ in range((1 << 14) // calibrate.LINK):
        seen.append(place)
        place = int(table[place])
    assert place == 0
    assert sorted(seen) == list(range(0, len(table), calibrate.LINK // 4))
    assert len(set(np.diff(seen).tolist())) > 30  # no stride that hardware could guess


@pytest.mark.cuda
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_the_kernels_assemble(arch):
    kernels = microbench.kernels(arch)
    assert ("early" in kernels) == (arch == "sm_90a")
    for cubin in compile_many(list(kernels.values()), arch):
        assert cubin.spill_loads == 0
        assert ".f64" not in cubin.ptx
        if cubin.name.startswith("line_"):
            assert cubin.ptx.count("fma.rn.f32") == int(cubin.name[5:])
            assert "bra" not in cubin.ptx
        if cubin.name == "arithmetic":
            assert cubin.ptx.count("dp4a") >= microbench.CHAINS
