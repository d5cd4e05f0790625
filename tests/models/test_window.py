"""Layers with windows: how much they keep, and that what they let go is not missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.ir.pages import PAGE, cache_bytes
from fusec.models.decoder import last_of
from fusec.models.decoder_graph import decode_graph
from fusec.models.model import Model
from fusec.models.presets import PRESETS
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from fusec.verifier import reference_logits
from tests.gguf_edit import edited

WINDOW, TOKENS, CONTEXT = 20, 1100, 1500
IDS = [int(i) for i in np.random.default_rng(7).integers(0, 320, TOKENS)]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of three have the window, and keep less than the text is long."""
    config = replace(config_of("gemma2"), context=CONTEXT, window=WINDOW)
    config = replace(config, full_layers=frozenset({1}))
    return synthesize(config, tmp_path_factory.mktemp("models") / "windowed.gguf", "F32")


@pytest.mark.slow
def test_what_a_window_has_left_is_not_missed(windowed: Path) -> None:
    model = Model.open(windowed)
    wanted = reference_logits(model, IDS, CONTEXT)
    with driver.load(model, "cpu", context=CONTEXT, kv="f32") as engine:
        found = engine.logits(IDS)
        engine.reset()
        single = np.stack([engine.step(token) for token in IDS])
        with engine.decode.cached() as cache:
            held = {name: kind.begin(0, TOKENS) for name, kind in cache.pages.kinds.items()}
    assert held == {"full": 0, f"window {WINDOW}": PAGE}  # its first page holds the last positions
    assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert single.tobytes() == found.tobytes()


@pytest.mark.slow
def test_a_window_hides_what_lies_in_front_of_it(windowed: Path) -> None:
    """The layers' windows together reach back so far, and no further."""
    model = Model.open(windowed)
    model = replace(model, config=replace(model.config, full_layers=frozenset()))
    reach, ids = 3 * (WINDOW - 1), IDS[:100]
    others = [(token + 1) % 320 for token in ids[: 99 - reach]] + ids[99 - reach :]
    with driver.load(model, "cpu", context=128) as engine:
        assert engine.logits(ids)[99].tobytes() == engine.logits(others)[99].tobytes()
        others[99 - reach] = (others[99 - reach] + 1) % 320
        assert engine.logits(ids)[99].tobytes() != engine.logits(others)[99].tobytes()


@pytest.mark.slow
def test_a_sequence_goes_back_no_further_than_a_window_keeps(windowed: Path) -> None:
    with driver.load(windowed, "cpu", context=CONTEXT) as engine:
        every = engine.logits(IDS)
        engine.position = 650
        assert engine.step(IDS[650]).tobytes() == every[650].tobytes()
        with pytest.raises(FusecError, match="expected a position from 0 to 651"):
            engine.position = 652
        engine.feed([*IDS[651:], *IDS[:20]])
        with pytest.raises(FusecError, match="position 100: the layers' window has moved on, expe"):
            engine.position = 100
        engine.position = 0
        assert engine.step(IDS[0]).tobytes() == every[0].tobytes()


@pytest.mark.slow
def test_sequences_go_on_where_a_window_has_moved(windowed: Path) -> None:
    """Appended, reused, saved and restored: what is kept of the beginning may be too little."""
    with driver.load(windowed, "cpu", context=CONTEXT) as engine:
        whole = list(engine.tokens(IDS, 40))
        first = list(engine.tokens(IDS, 15))
        assert first + list(engine.tokens([], 25, append=True)) == whole
        assert list(engine.tokens([*IDS, *whole[:20]], 20, reuse=True)) == whole[20:]
        assert list(engine.tokens([*IDS[:30], 7], 9, reuse=True)) == list(
            engine.tokens([*IDS[:30], 7], 9)
        )
        list(engine.tokens(IDS, 15))
        saved = engine.save()
        engine.logits(IDS[:50])
        engine.restore(saved)
        assert list(engine.tokens([], 25, append=True)) == whole[15:]


def test_bounded_memory_of_gemma3() -> None:
    """32,768 positions: three layers of 18 keep them all."""
    config = PRESETS["gemma3-270m"]
    types = {name: "f32" for name, _ in config.tensor_shapes()}
    graph = decode_graph(config, types, 1, 32768, "f16")
    full = sum(state.nbytes for state in graph.states)
    assert full == 18 * 2 * 32768 * config.kv_width * 2
    assert cache_bytes(graph) <= full / 5
    assert cache_bytes(graph, 1) == full * PAGE // 32768  # a page of each layer


def test_a_file_says_which_layers_have_a_window(tmp_path: Path) -> None:
    config = replace(config_of("gemma3"), layers=3, full_layers=frozenset({0, 2}))
    path = synthesize(config, tmp_path / "model.gguf", "F32")
    assert Model.open(path).config.full_layers == {0, 2}
    keys = {"general.architecture": "gemma3", "gemma3.attention.sliding_window_pattern": [True]}
    wrong = edited(path, tmp_path / "wrong.gguf", keys)
    with pytest.raises(FusecError, match=r"pattern should be true or false for each of 3 layers"):
        Model.open(wrong)


def test_the_last_of_a_pattern_has_no_window() -> None:
    assert PRESETS["gemma3-270m"].full_layers == {5, 11, 17}
    assert [PRESETS["gemma3-1b"].window_of(n) for n in range(7)] == [512] * 5 + [0, 512]


@pytest.mark.slow
def test_a_deep_exaone4_has_windows_and_turns_their_layers_alone(tmp_path: Path) -> None:
    """As llama.cpp has it, which knows the model by its 64 layers."""
    config = replace(config_of("exaone4"), layers=64, window=24, full_layers=last_of(4, 64))
    config = replace(config, rope_in_windows=True)
    path = synthesize(config, tmp_path / "model.gguf", "F32")
    found = Model.open(path).config
    assert found.full_layers == config.full_layers and found.rope_in_windows
    assert found.angles(3) is None and found.angles(4) is not None
    few = synthesize(replace(config, layers=3, full_layers=frozenset()), tmp_path / "few.gguf")
    with pytest.raises(FusecError, match=r"'exaone4.attention.sliding_window' is 24, which is not"):
        Model.open(few)
