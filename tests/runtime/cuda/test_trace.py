"""Values that stay on the device, over a driver without a GPU, and how others take them."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.runtime.cuda.device_array import CPU, DeviceArray, _alive
from tests.runtime.cuda.machine import CONTEXT, Machine, compiled_for_a_gpu

pytestmark = pytest.mark.slow  # compiles for a fake driver

IDS = [int(i) for i in np.random.default_rng(6).integers(1, 500, CONTEXT)]
LAYERS = 8  # of the tiny model
OUTPUTS = ("blk.*.ffn_residual", "blk.0.attn_norm", "blk.1.q")


@pytest.fixture(scope="module")
def compiled(tiny_model: Path) -> driver.Compiled:
    """At -O2, as the others of these tests: `compiled_for_a_gpu` says why."""
    return driver.compile(
        tiny_model, target="sm_90a", level=2, context=CONTEXT, outputs=list(OUTPUTS)
    )


@pytest.fixture
def machine(compiled: driver.Compiled) -> Machine:
    return Machine(compiled)


@pytest.mark.parametrize("count", [1, 2, 30, CONTEXT])
def test_on_the_device_and_on_the_host(machine: Machine, count: int) -> None:
    engine = machine.built
    host = engine.trace(IDS[:count])
    assert engine.ids == tuple(IDS[:count])
    device = engine.trace(IDS[:count], on_device=True, width=min(count, 16))
    assert engine.ids == tuple(IDS[:count])
    residuals = {f"blk.{i}.ffn_residual" for i in range(LAYERS)}
    names = {"blk.0.attn_norm", "blk.1.q", "logits", *residuals}
    assert set(host) == set(device) == names
    for name, array in device.items():
        assert isinstance(array, DeviceArray)
        assert array.shape == host[name].shape
        assert array.numpy().tobytes() == host[name].tobytes() == np.asarray(array).tobytes()


def test_logits_and_tokens_are_those_without_outputs(tiny_model: Path, machine: Machine) -> None:
    plain = Machine(compiled_for_a_gpu(tiny_model)).built
    assert machine.built.trace(IDS)["logits"].tobytes() == plain.logits(IDS).tobytes()
    before = len(machine.api.launched)
    assert list(machine.built.tokens(IDS[:5], 7)) == list(plain.tokens(IDS[:5], 7))
    asked = {x.kernel for x in machine.built.traced.plan.launches if x.group == "outputs"}
    usual = {x.kernel for x in machine.decode.plan.launches}
    assert asked and not (asked - usual) & {x.name for x in machine.api.launched[before:]}


def test_appending(machine: Machine) -> None:
    engine = machine.built
    whole = engine.trace(IDS[:20])
    engine.reset()
    engine.feed(IDS[:12])
    part = engine.trace(IDS[12:20], append=True)
    for name, array in whole.items():
        assert part[name].tobytes() == array[12:].tobytes()
    engine.position = 12
    assert engine.trace(IDS[12:20], append=True, on_device=True)["logits"].shape[0] == 8


def test_generating_appends_on_the_device_too(machine: Machine) -> None:
    engine = machine.built
    whole = list(engine.tokens(IDS[:6], 20))
    parts = list(engine.tokens(IDS[:6], 8))
    parts += list(engine.tokens([], 12, append=True))
    assert parts == whole
    assert list(engine.tokens([*IDS[:6], *whole[:9]], 11, reuse=True)) == whole[9:]
    saved = engine.save()
    list(engine.tokens(IDS[3:9], 5))
    engine.restore(saved)
    assert engine.ids == (*IDS[:6], *whole)
    hosted = [chosen.token for chosen in engine.choices(IDS[:6], 20)]
    assert hosted == whole


@pytest.mark.slow
def test_memory_goes_back_with_the_array(machine: Machine) -> None:
    engine = machine.built
    engine.trace(IDS[:4], on_device=True)  # what is made once stays
    gc.collect()
    used = machine.api.used
    kept = engine.trace(IDS[:4], on_device=True)
    assert machine.api.used == used + sum(array.nbytes for array in kept.values())
    del kept
    gc.collect()
    assert machine.api.used == used
    late = engine.trace(IDS[:4], on_device=True)
    engine.close()
    assert not machine.api.buffers
    with pytest.raises(FusecError, match="closed"):
        late["logits"].numpy()
    del late
    gc.collect()


def test_the_cuda_array_interface(machine: Machine) -> None:
    array = machine.built.trace(IDS[:3], on_device=True)["blk.0.attn_norm"]
    found = array.__cuda_array_interface__
    assert found["shape"] == array.shape and found["typestr"] == "<f4"
    assert found["data"] == (array.address, False)
    assert (found["strides"], found["version"]) == (None, 3)
    assert array.__dlpack_device__() == (2, 0)
    assert repr(array) == f"<DeviceArray float32{list(array.shape)} on GPU 0>"


def stand_in(values: np.ndarray, freed: list[int]) -> DeviceArray:
    """An array whose device is this machine's memory, which NumPy takes."""
    address = values.ctypes.data
    return DeviceArray(
        address, values.shape, values.dtype, freed.append, lambda *_: values, (CPU, 0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_another_library_shares_the_memory_by_dlpack(kind: type) -> None:
    values, freed = np.arange(24, dtype=kind).reshape(2, 3, 4), []
    array = stand_in(values, freed)
    taken = np.from_dlpack(array)
    assert (taken.shape, taken.dtype) == (values.shape, values.dtype)
    values[1, 2, 3] = 99
    assert (taken == values).all()
    del array
    gc.collect()
    assert freed == []  # as long as somebody has it
    del taken
    gc.collect()
    assert freed == [values.ctypes.data] and not _alive


def test_a_capsule_that_nobody_takes_is_forgotten() -> None:
    values, freed = np.zeros(3, np.float32), []
    capsule = stand_in(values, freed).__dlpack__()
    gc.collect()
    assert freed == [] and _alive
    del capsule
    gc.collect()
    assert freed == [values.ctypes.data] and not _alive
