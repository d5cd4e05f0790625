"""The engine from text to text and its intermediate values, on the GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fusec
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from fusec.passes.pipeline import LEVELS
from fusec.runtime.cuda.device_array import DeviceArray

pytestmark = pytest.mark.gpu

START = "Once upon a time"
IDS = [int(i) for i in np.random.default_rng(8).integers(0, 500, 70)]


@pytest.fixture(scope="module")
def engine():
    with fusec.load("demo", "native") as engine:
        yield engine


def test_every_value_has_the_same_bytes_at_every_level_and_width(tiny_model: Path) -> None:
    first: dict[str, bytes] = {}
    for level in sorted(LEVELS):
        with fusec.load(tiny_model, "native", level, context=96, outputs=["*"]) as engine:
            for width in (None, 8, 1):
                found = engine.trace(IDS, width=width)
                first = first or {name: array.tobytes() for name, array in found.items()}
                different = [n for n, a in found.items() if a.tobytes() != first[n]]
                assert different == [], (level, width)
            assert engine.logits(IDS).tobytes() == first["logits"]


def test_values_on_the_device_are_those_on_the_host() -> None:
    with fusec.load("demo", "native", outputs=["blk.*.ffn_residual"]) as engine:
        host, device = engine.trace(IDS), engine.trace(IDS, on_device=True)
        assert set(host) == set(device)
        for name, array in device.items():
            assert isinstance(array, DeviceArray)
            assert array.numpy().tobytes() == host[name].tobytes()


def test_torch_takes_the_arrays_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    with fusec.load("demo", "native", outputs=["blk.0.ffn_residual"]) as engine:
        array = engine.trace(IDS, on_device=True)["blk.0.ffn_residual"]
        for taken in (torch.from_dlpack(array), torch.as_tensor(array, device="cuda")):
            assert taken.is_cuda and taken.data_ptr() == array.address
            assert taken.cpu().numpy().tobytes() == array.numpy().tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_host_and_device_choose_the_same_tokens(engine: fusec.Engine, seed: int) -> None:
    for settings in ({}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0}, {"repeat_penalty": 1.3}):
        warm = fusec.Sampling(temperature=0.9, seed=seed, **settings)
        on_device = engine.generate(START, 80, warm)
        assert engine.generate(START, 80, warm, logprobs=0).ids == on_device.ids


def test_both_targets_write_the_same_text(engine: fusec.Engine) -> None:
    """Logits differ in their last bits, so a choice may differ where two are as good as equal."""
    warm = fusec.Sampling(temperature=0.8, seed=5)
    with fusec.load("demo") as cpu:
        assert engine.generate(START, 60).ids == cpu.generate(START, 60).ids
        assert engine.generate(START, 60, warm).ids == cpu.generate(START, 60, warm).ids


def test_a_sequence_goes_on(engine: fusec.Engine, tmp_path: Path) -> None:
    whole = engine.generate(START, 60)
    parts = [engine.generate(START, 7)]
    parts += [engine.generate("", count, append=True) for count in (1, 20, 12)]
    saved = engine.save(tmp_path / "story.npz")
    parts.append(engine.generate("", 20, append=True))
    assert tuple(token for part in parts for token in part) == whole.ids
    engine.generate("The dog", 5)
    engine.restore(saved)
    assert engine.generate("", 20, append=True).ids == whole.ids[40:]
    engine.rewind(len(whole.prompt) + 10)
    assert engine.generate("", 50, append=True).ids == whole.ids[10:]
    assert engine.generate(START + whole.text, 5, reuse=True) == engine.generate(
        START + whole.text, 5
    )


def test_stopping_and_going_on_in_windows(tmp_path: Path) -> None:
    """Graphs enqueued behind a stop token begin pages, for which window layers give others back."""
    config = replace(config_of("gemma3"), vocab=512, context=1300)
    path = synthesize(config, tmp_path / "windows.gguf")
    ids = [int(i) for i in np.random.default_rng(5).integers(0, 500, 980)]
    with fusec.load(path, "native", context=1300) as engine:
        whole = list(engine.tokens(ids, 120))
        engine.stop = frozenset({whole[50]})
        first = list(engine.tokens(ids, 120))
        engine.stop = frozenset()
        assert first + list(engine.tokens([], 120 - len(first), append=True)) == whole


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_forks_share_pages(architecture: str, tmp_path: Path) -> None:
    """Behind 240 tokens a fork has a page copied and begins another, as does what follows it."""
    config = replace(config_of(architecture), vocab=512, context=600)
    path = synthesize(config, tmp_path / "model.gguf")
    ids = [int(i) for i in np.random.default_rng(6).integers(0, 500, 230)]
    warm = fusec.Sampling(temperature=0.9, seed=1)
    with fusec.load(path, "native", context=600) as engine:
        engine.stop = frozenset()
        whole = list(engine.tokens(ids, 60))
        assert list(engine.tokens(ids, 10)) == whole[:10]
        with engine.fork():
            list(engine.tokens([], 100, warm, append=True))
        with engine.fork():
            assert list(engine.tokens([], 40, append=True)) == whole[10:50]
            with engine.fork():
                list(engine.tokens([], 80, warm, append=True))
            assert list(engine.tokens([], 10, append=True)) == whole[50:]
        saved = engine.save()
        assert list(engine.tokens([], 50, append=True)) == whole[10:]
        engine.restore(saved)
        assert list(engine.tokens([], 50, append=True)) == whole[10:]
