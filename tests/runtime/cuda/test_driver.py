"""What the driver's failures say, and what is refused before it is tried."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.errors import FusecError
from fusec.runtime.cuda.driver import CudaError, Driver, Executable
from fusec.runtime.cuda.memory import Memory
from tests.runtime.cuda.fake import FakeDriver, Status


def test_a_machine_without_a_driver():
    api = FakeDriver()

    def no_library(_flags):
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    api._cuInit = no_library
    with pytest.raises(FusecError, match=r"no NVIDIA driver.*--target cpu"):
        Driver(api)


def test_a_driver_that_is_too_old():
    with pytest.raises(FusecError, match=r"supports CUDA 12\.4, expected 13\.0.*update the driver"):
        Driver(FakeDriver(version=12040))


def test_a_driver_without_a_gpu():
    api = FakeDriver()
    api.broken["cuInit"] = Status.CUDA_ERROR_NO_DEVICE
    with pytest.raises(FusecError, match=r"finds no GPU.*--target cpu"):
        Driver(api)


def test_the_real_bindings_without_a_gpu():
    driver = pytest.importorskip("cuda.bindings.driver")
    try:
        driver.cuInit(0)
    except RuntimeError:
        with pytest.raises(FusecError, match="no NVIDIA driver"):
            Driver()
    else:
        pytest.skip("there is a driver")


def test_too_little_memory_names_what_and_how_much():
    driver = Driver(FakeDriver(memory=10 << 20))
    driver.allocate(4 << 20, "the weights")
    wanted = r"Fake GPU: the KV cache needs 8\.0 MiB, 6\.0 MiB of 10\.0 MiB are free.*--context"
    with pytest.raises(CudaError, match=wanted):
        driver.allocate(8 << 20, "the KV cache")


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_90a", (9, 0), True),
        ("sm_90a", (10, 0), False),  # architecture-specific code runs nowhere else
        ("sm_80", (8, 9), True),
        ("sm_89", (8, 6), False),
        ("sm_80", (9, 0), False),
    ],
)
def test_machine_code_for_another_gpu(arch, capability, runs):
    driver = Driver(FakeDriver({"k": lambda: None}, capability=capability))
    executable = Executable("k", arch, b"k", 1, 32)
    if runs:
        assert driver.load(executable).name == "k"
        return
    here = {(10, 0): "sm_100a", (8, 6): "sm_86", (9, 0): "sm_90a"}[capability]
    with pytest.raises(CudaError, match=f"compiled for {arch}.*Fake GPU.*--target {here}"):
        driver.load(executable)


def test_damaged_machine_code():
    driver = Driver(FakeDriver())
    with pytest.raises(CudaError, match="k: its machine code is damaged: compile again"):
        driver.load(Executable("k", "sm_90a", b"nonsense", 1, 32))


def test_a_kernel_that_fails_is_reported_where_it_is_waited_for():
    api = FakeDriver()
    driver = Driver(api)
    stream = driver.stream()
    api.broken["cuStreamSynchronize"] = Status.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        driver.synchronize(stream)


def test_idle_tells_busy_from_broken():
    api = FakeDriver()
    driver = Driver(api)
    assert driver.idle("stream")
    api.broken["cuStreamQuery"] = Status.CUDA_ERROR_NOT_READY
    assert not driver.idle("stream")
    api.broken["cuStreamQuery"] = Status.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(CudaError):
        driver.idle("stream")


def test_a_failed_capture_leaves_the_stream_usable():
    driver = Driver(FakeDriver())
    stream = driver.stream()

    def fails():
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        driver.capture(stream, fails)
    assert driver.capture(stream, lambda: None) == []


def test_memory_comes_back_and_goes_back():
    api = FakeDriver()
    driver = Driver(api)
    memory = Memory(driver, driver.stream())
    data = np.arange(7, dtype=np.float32)
    pointer = memory.upload(data, "data")
    assert memory.read(pointer, (7,), data.dtype).tolist() == data.tolist()
    assert not memory.read(memory.zeros(16, "zeros"), (4,), data.dtype).any()
    array, address = memory.pinned(4, np.dtype(np.uint64))
    assert not array.any()
    assert address in api.buffers
    memory.close()
    assert not api.buffers
