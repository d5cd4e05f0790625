"""Steps of many rows on the GPU: the bytes of steps of one, however a prompt is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.models.presets import PRESETS
from fusec.models.small import TRAITS, config_of
from fusec.models.synth import synthesize

pytestmark = pytest.mark.gpu

IDS = [int(i) for i in np.random.default_rng(3).integers(0, 500, 300)]
WIDTHS = (2, 5, 8, 16, 17, 64, 300)


def check(path: Path, level: int = 3, kv: str = "f16", alone: int = 70) -> None:
    """The first `alone` rows against single steps, all widths against each other."""
    with driver.load(path, "native", level, 320, kv) as engine:
        engine.reset()
        wanted = np.stack([engine.step(token) for token in IDS[:alone]])
        every = engine.logits(IDS)
        assert every[:alone].tobytes() == wanted.tobytes(), f"-O{level}, {kv}"
        for width in WIDTHS:
            assert engine.logits(IDS[:width]).tobytes() == every[:width].tobytes(), width
        for cut in (1, 37, 299):
            engine.reset()
            engine.feed(IDS[:cut])
            engine.feed(IDS[cut:299])
            assert engine.step(IDS[299]).tobytes() == every[299].tobytes(), cut


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_a_row_has_the_bytes_of_a_step_of_its_own(tiny_model, level, kv):
    check(tiny_model, level, kv)


def test_heads_that_project_and_tiles_are_no_exception(projecting, tiled):
    check(projecting)
    check(tiled, alone=20)


MIXES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1", "Q4_K_M", "Q6_K", "Q3_K_M", "Q2_K"),
    *("IQ4_NL", "IQ4_XS", "IQ3_S", "IQ2_XS", "IQ1_S", "MXFP4"),
)


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_formats(mix, tmp_path):
    sizes = {"width": 256, "heads": 8, "kv_heads": 2, "head_dim": 32, "rope_dims": 32}
    config = replace(PRESETS["tiny"], layers=1, context=320, ffn_width=512, **sizes)
    check(synthesize(config, tmp_path / "model.gguf", mix), alone=20)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TRAITS)
def test_architectures(architecture, tmp_path):
    config = replace(config_of(architecture), vocab=512, context=320)
    check(synthesize(config, tmp_path / "model.gguf"), alone=20)


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_windows_that_leave_pages(architecture, kv, tmp_path):
    """1,100 tokens, where layers with a window keep 1,024: as one prompt, cut, and alone."""
    config = replace(config_of(architecture), vocab=512, context=1500)
    path = synthesize(config, tmp_path / "model.gguf")
    ids = [int(i) for i in np.random.default_rng(5).integers(0, 500, 1100)]
    found = []
    for level in (0, 3):
        with driver.load(path, "native", level, 1500, kv) as engine:
            every = engine.logits(ids)
            found.append(every.tobytes())
            assert engine.logits(ids, 16).tobytes() == found[0]
            engine.reset()
            engine.feed(ids[:1000])
            alone = np.stack([engine.step(token) for token in ids[1000:]])
            assert alone.tobytes() == every[1000:].tobytes()
    assert found[0] == found[1]
    with driver.load(path, "cpu", context=1500, kv="f32") as engine:
        near = engine.logits(ids)
    assert np.linalg.norm(every - near) < 2e-3 * np.linalg.norm(near)
