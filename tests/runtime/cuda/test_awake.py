"""The GPU is opened beside other work: held until that is done, and never a reason to fail."""

from __future__ import annotations

import threading

import pytest

from fusec.codegen.cuda.arch import ARCHS, NATIVE
from fusec.errors import FusecError
from fusec.runtime.cuda import awake as module
from fusec.runtime.cuda.awake import awake
from fusec.runtime.cuda.driver import Driver
from tests.runtime.cuda.fake import FakeDriver, Status


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A fake GPU that `awake` finds."""
    api = FakeDriver()
    monkeypatch.setattr(module, "Driver", lambda: Driver(api))
    return api


def held(api: FakeDriver) -> int:
    """How many have the GPU open."""
    count = api.log.count
    return count("cuDevicePrimaryCtxRetain") - count("cuDevicePrimaryCtxRelease")


@pytest.mark.parametrize("target", [*NATIVE, *ARCHS])
def test_a_gpu_is_open_until_the_work_is_done(api: FakeDriver, target: str) -> None:
    others = threading.enumerate()
    with awake(target):
        for thread in threading.enumerate():
            if thread not in others:
                thread.join(10)
        assert held(api) == 1
    assert "cuDevicePrimaryCtxRetain" in api.log
    assert held(api) == 0


@pytest.mark.parametrize("target", [None, "cpu", "tpu", ""])
def test_other_targets_open_nothing(api: FakeDriver, target: str | None) -> None:
    with awake(target):
        pass
    assert api.log == []


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("cuInit", Status.CUDA_ERROR_NO_DEVICE),
        ("cuDevicePrimaryCtxRetain", Status.CUDA_ERROR_OUT_OF_MEMORY),
    ],
)
def test_a_gpu_that_does_not_open_says_nothing(
    api: FakeDriver, call: str, status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    api.broken[call] = status
    with awake("native"):
        pass
    assert held(api) == (1 if call.endswith("Retain") else 0)  # what failed is not given back
    assert "cuDevicePrimaryCtxRelease" not in api.log
    assert capfd.readouterr() == ("", "")


def test_the_machine_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with awake("native"):
        pass
    assert capfd.readouterr() == ("", "")


def test_the_work_s_own_error_comes_through(api: FakeDriver) -> None:
    with pytest.raises(FusecError, match="no such model"), awake("sm_90a"):
        raise FusecError("no such model")
    assert held(api) == 0
