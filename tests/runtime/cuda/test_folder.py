"""Compiling for a GPU that is elsewhere, and running the folder there; what each error says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fusec import backends, driver
from fusec.artifact import Artifact
from fusec.backends import cuda
from fusec.errors import FusecError
from fusec.models.synth import PRESETS, synthesize
from fusec.runtime.cuda.driver import Driver
from tests.command import fusec, refused
from tests.runtime.cuda.fake import FakeDriver, Status
from tests.runtime.cuda.here import without_a_gpu

ARCH = "sm_90a"
pytestmark = pytest.mark.xdist_group("folder")  # they share what was compiled


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, **options: object) -> FakeDriver:
    """Let `fusec` find a fake GPU that knows no kernels."""
    api = FakeDriver(**options)
    monkeypatch.setattr(cuda, "Driver", lambda: Driver(api))
    return api


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few kernels, which nevertheless are of every kind and width."""
    shape = replace(PRESETS["tiny"], layers=2)
    return synthesize(shape, tmp_path_factory.mktemp("models") / "two.gguf", quant="Q8_0")


@pytest.fixture(scope="module")
def folder(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled") / "two"
    ran = fusec("compile", two_layers, "--target", ARCH, "--context", 48, "-o", folder)
    assert ran.code == 0, ran.err
    assert "registers" in ran.out
    return folder


@pytest.mark.cuda
def test_the_folder_has_all_that_a_gpu_needs(folder, two_layers):
    manifest = json.loads((folder / "fusec.json").read_text())
    compiled = driver.compile(two_layers, target=ARCH, context=48)
    plans = compiled.plan, *compiled.backend.variants(compiled.plans)
    control = {"advance", "advance_best", "feed", "sample", "prefetch", "draft", "accept", "weigh"}
    rows = {**dict.fromkeys(control, 0), "sample_rows": 1}
    rows |= {k.name: k.rows for plan in plans for k in plan.kernels}
    assert {name: kernel["rows"] for name, kernel in manifest["kernels"].items()} == rows
    assert {0, 1, 2, 4, 8, 16} == set(rows.values())  # a context of 48 needs no wide tiles
    for name, kernel in manifest["kernels"].items():
        assert kernel["spill_bytes"] == 0
        assert kernel["grid"] >= 1
        assert (folder / "kernels" / f"{name}.py").read_text()
        assert (folder / "kernels" / f"{name}.cubin").read_bytes().startswith(b"\x7fELF")


@pytest.mark.cuda
def test_the_folder_is_at_the_gpus_default_level_and_takes_no_other(folder):
    assert fusec("inspect", folder, "--json").json["level"] == 3
    assert Artifact.open(folder).plan().overlaps
    for level in (2, 3):
        message = refused("run", folder, "--prompt-ids", "1", "-O", level)
        assert message == f"{folder} is compiled already: -O comes too late"


@pytest.mark.cuda
def test_a_folder_for_another_gpu(folder, monkeypatch):
    on_a_gpu(monkeypatch, capability=(8, 0))
    message = refused("run", folder, "--prompt-ids", "1,2", "-n", 4)
    assert f"was compiled for {ARCH}, this GPU is Fake GPU, compute capability 8.0" in message
    assert "--target sm_80" in message


@pytest.mark.cuda
def test_a_gpu_with_too_little_memory(folder, monkeypatch):
    manifest = json.loads((folder / "fusec.json").read_text())
    api = on_a_gpu(monkeypatch, memory=1 << 16)
    code = ((folder / "kernels" / f"{name}.cubin").read_bytes() for name in manifest["kernels"])
    known = set(code)
    api._cuLibraryLoadData = lambda data, *_: (data,) if data in known else Status.CUDA_SUCCESS
    api._cuLibraryGetKernel = lambda _library, name: name.decode()
    message = refused("run", folder, "--prompt-ids", "1,2", "-n", 4)
    assert message.startswith("not enough memory on Fake GPU: the model's weights needs")
    assert not api.buffers


@pytest.mark.cuda
def test_damaged_machine_code_is_refused(folder, tmp_path):
    name = next(iter(json.loads((folder / "fusec.json").read_text())["kernels"]))
    path = folder / "kernels" / f"{name}.cubin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    try:
        message = refused("run", folder, "--prompt-ids", "1,2", "-n", 4)
    finally:
        path.write_bytes(whole)
    assert "not as fusec compile wrote it" in message


@pytest.mark.cuda
def test_running_the_folder_without_a_gpu(folder):
    without_a_gpu()
    message = refused("run", folder, "--prompt-ids", "1,2", "-n", 4)
    assert message.startswith(f"{folder}: compiled for sm_90a: ")
    assert message.endswith(
        ": run it where such a GPU is, or compile the model again with --target cpu"
    )


@pytest.mark.cuda
def test_calibrating_without_a_gpu_advises_no_other_target():
    without_a_gpu()
    message = refused("calibrate")
    assert message.startswith("calibrating measures this machine's GPU: ")
    assert "--target" not in message


@pytest.mark.cuda
def test_native_without_a_gpu(tiny_model):
    without_a_gpu()
    for name in backends.NATIVE:
        with pytest.raises(FusecError, match="use target cpu"):
            driver.load(tiny_model, name)
    assert "use target cpu" in refused("run", tiny_model, "--target", "native", "--prompt-ids", "1")
    assert "use target cpu" in refused("bench", tiny_model, "--target", "native", "-n", 4)


def test_unknown_targets_name_the_known(tiny_model):
    message = refused("compile", tiny_model, "--target", "sm_99")
    assert message.startswith("unknown target 'sm_99': known are cpu, native, cuda, sm_80")


def test_a_context_that_does_not_fit(tiny_model):
    message = refused("compile", tiny_model, "--target", ARCH, "--context", 513)
    assert "expected a context from 1 to 512" in message


def test_the_model_may_lie_beside_the_folder(tiny_model, tmp_path):
    model, folder = tmp_path / "a" / "m.gguf", tmp_path / "b" / "m"
    model.parent.mkdir()
    model.write_bytes(tiny_model.read_bytes())
    driver.compile(model).save(folder)
    moved = model.rename(folder.parent / "m.gguf")
    opened = Artifact.open(folder)
    assert opened.model().file.path == moved
    moved.unlink()
    with pytest.raises(FusecError, match="is gone: compile again, or put it beside"):
        opened.model()


def test_unknown_l2_modes_are_refused_on_every_target(tiny_model):
    message = refused("run", tiny_model, "--prompt-ids", "1", "--l2", "on")
    assert message == "unknown L2 mode 'on': known are off, window, prefetch, auto"
    assert "unknown L2 mode 'on'" in refused("bench", tiny_model, "--l2", "on", "-n", 4)
