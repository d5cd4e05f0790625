"""Whole models on the GPU: the numbers contract, the levels, the token loop, the samplers."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusec import driver
from fusec.errors import FusecError
from fusec.models.gguf_file import open_gguf
from fusec.models.model import Model
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from fusec.passes.pipeline import LEVELS
from fusec.runtime.cuda import loop as loop_module
from fusec.runtime.cuda.driver import Driver
from fusec.runtime.sampling import Sampling
from fusec.verifier import BOUNDS, reference_logits, relative_error, same_choice

pytestmark = pytest.mark.gpu

IDS = [int(i) for i in np.random.default_rng(1).integers(0, 500, 40)]
GREEDY = Sampling()


def load(path: Path, level: int | None = None, **options):
    return driver.load(path, "native", level, **options)


@pytest.fixture(scope="module")
def engine(tiny_model):
    engine = load(tiny_model)
    yield engine
    engine.close()


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_stories_goes_on_as_llama_cpp_does(stories, shared_data, level):
    golden = json.loads((shared_data / "stories260K.golden.json").read_text())
    engine = load(stories, level, kv="f32")
    logits = engine.logits([1])[0]
    assert relative_error(logits, np.array(golden["logits0"])) < 1e-4
    assert list(engine.tokens([1], len(golden["greedy"]))) == golden["greedy"]
    engine.close()


def check_levels(path: Path, ids: list[int], kv: str) -> None:
    wanted = reference_logits(Model.open(path), ids, driver.DEFAULT_CONTEXT)
    first = None
    for level in sorted(LEVELS):
        engine = load(path, level, kv=kv)
        found, again = engine.logits(ids), engine.logits(ids)
        engine.close()
        first = found if first is None else first
        assert relative_error(found, wanted) < BOUNDS[kv]
        assert same_choice(found, wanted)
        assert found.tobytes() == first.tobytes(), f"-O{level} differs from -O{min(LEVELS)}"
        assert found.tobytes() == again.tobytes(), f"-O{level} differs from itself"


@pytest.mark.parametrize("kv", sorted(BOUNDS))
def test_levels_agree_to_the_byte_and_with_the_reference(tiny_model, kv):
    check_levels(tiny_model, IDS, kv)


@pytest.mark.parametrize("kv", sorted(BOUNDS))
def test_stories_levels_agree_too(stories, kv):
    check_levels(stories, IDS, kv)


@pytest.mark.parametrize("kv", sorted(BOUNDS))
def test_tiles_agree_to_the_byte_and_with_the_reference(tiled, kv):
    check_levels(tiled, IDS[:12], kv)


@pytest.mark.parametrize("context", [256, 600, 2048])
@pytest.mark.parametrize("kv", sorted(BOUNDS))
def test_projecting_attention_changes_no_byte(projecting, kv, context):
    """One, three and eight spans; the last token of the longer prompt is in the second."""
    ids = IDS if context == 256 else [*IDS] * 7
    wanted = None
    for level, eager in ((0, False), (3, False), (3, True), (4, False), (4, True)):
        engine = load(projecting, level, kv=kv, context=context, eager=eager)
        found = engine.logits(ids)
        engine.close()
        wanted = found if wanted is None else wanted
        assert found.tobytes() == wanted.tobytes(), f"-O{level}, eager: {eager}"


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_projecting_attention_in_windows(architecture: str, tmp_path: Path) -> None:
    """One of 300 positions moves on from page to page, and from one block's span to another's."""
    sizes = {"width": 192, "heads": 3, "kv_heads": 1, "head_dim": 64, "rope_dims": 64}
    config = replace(config_of(architecture), **sizes, vocab=512, context=900, window=300)
    path = synthesize(config, tmp_path / "model.gguf")
    ids = [int(i) for i in np.random.default_rng(7).integers(0, 500, 800)]
    wanted = None
    for level in (0, 3, 4):
        with load(path, level, context=900) as engine:
            every = engine.logits(ids)[500:]
            engine.reset()
            engine.feed(ids[:500])
            found = np.stack([engine.step(token) for token in ids[500:]])
        wanted = every.tobytes() if wanted is None else wanted
        assert found.tobytes() == every.tobytes() == wanted, f"-O{level}"


@pytest.mark.slow
def test_a_full_size_model(smollm2):
    check_levels(smollm2, IDS[:24], "f16")


def test_graph_replay_is_what_eager_launches_are(tiny_model, engine):
    eager = load(tiny_model, eager=True)
    assert eager.logits(IDS).tobytes() == engine.logits(IDS).tobytes()
    assert list(eager.tokens(IDS, 50)) == list(engine.tokens(IDS, 50))
    eager.close()


def test_the_l2_window_changes_no_number(tiny_model, engine):
    pinned = load(tiny_model, l2="window")
    assert pinned.logits(IDS).tobytes() == engine.logits(IDS).tobytes()
    pinned.close()


def test_the_device_loop_is_greedy(engine):
    made = list(engine.tokens(IDS[:5], 30))
    logits = engine.logits(IDS[:5] + made[:-1])[4:]
    assert made == [int(i) for i in logits.argmax(-1)]


def test_the_context_can_be_filled(engine):
    made = list(engine.tokens(IDS[:3]))
    assert len(made) == engine.context - 3 + 1
    with pytest.raises(FusecError, match="do not fit a context"):
        engine.tokens(IDS[:3], len(made) + 1)
    with pytest.raises(FusecError, match="past the context"):
        engine.step(1)


def test_a_stop_token_ends_the_generation(engine):
    plain = list(engine.tokens(IDS[:4], 30))
    before = engine.stop
    engine.stop = frozenset({plain[7]})
    assert list(engine.tokens(IDS[:4], 30)) == plain[: plain.index(plain[7])]
    engine.stop = before
    assert list(engine.tokens(IDS[:4], 30)) == plain


def test_sampling_is_reproducible(engine):
    hot = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=3)
    one, other = list(engine.tokens(IDS[:4], 60, hot)), list(engine.tokens(IDS[:4], 60, hot))
    assert one == other
    reseeded = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=4)
    assert list(engine.tokens(IDS[:4], 60, reseeded)) != one


def test_sampling_from_one_candidate_is_greedy(engine):
    greedy = list(engine.tokens(IDS[:4], 40))
    assert list(engine.tokens(IDS[:4], 40, Sampling(temperature=0.7, top_k=1))) == greedy
    narrow = Sampling(temperature=0.7, top_k=0, top_p=1e-6, min_p=0.0)
    assert list(engine.tokens(IDS[:4], 40, narrow)) == greedy
    picky = Sampling(temperature=0.7, top_k=0, top_p=1.0, min_p=1.0)
    assert list(engine.tokens(IDS[:4], 40, picky)) == greedy


def test_sampled_tokens_pass_the_filters(engine):
    """Every token drawn is among those that the same settings leave on the host."""
    settings = Sampling(temperature=1.5, top_k=5, top_p=1.0, min_p=0.0, seed=11)
    made = list(engine.tokens(IDS[:4], 60, settings))
    logits = engine.logits(IDS[:4] + made[:-1])[3:]
    ranks = [int((row > row[token]).sum()) for row, token in zip(logits, made, strict=True)]
    assert max(ranks) < 5
    assert len(set(ranks)) > 1


def test_the_penalty_keeps_greedy_text_from_repeating(engine):
    strong = Sampling(temperature=0.0, repeat_penalty=1e6, repeat_last=64)
    made = list(engine.tokens([1], 50, strong))
    assert len(set(made)) == len(made)


@pytest.fixture(scope="module")
def broken(tiny_model, tmp_path_factory):
    """Name -> a copy of the model with a weight that is not a number, or not finite."""
    found = {}
    for name, tensor, value in (
        ("nan", "output_norm.weight", np.nan),
        ("infinite", "blk.0.ffn_norm.weight", np.inf),
        ("too large for f16", "blk.0.attn_norm.weight", None),
    ):
        content = bytearray(tiny_model.read_bytes())
        place = open_gguf(tiny_model).tensors[tensor]
        values = np.frombuffer(content, np.float32, place.shape[0], place.offset).copy()
        values = values * 1e6 if value is None else np.full_like(values, value)
        content[place.offset : place.offset + values.nbytes] = values.astype(np.float32).tobytes()
        found[name] = tmp_path_factory.mktemp("broken") / "model.gguf"
        found[name].write_bytes(content)
    return found


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("name", ["nan", "infinite", "too large for f16"])
def test_logits_that_are_no_numbers_are_an_error(broken, name, level):
    with load(broken[name], level) as engine:
        for use in (
            lambda: list(engine.tokens([1, 2, 3], 6)),
            lambda: list(engine.tokens([1, 2, 3], 6, Sampling(temperature=0.8))),
            lambda: engine.logits([1, 2, 3]),
        ):
            with pytest.raises(FusecError, match=r"are not finite: .*--kv f32"):
                use()


def test_a_cache_of_floats_holds_what_halves_do_not(broken):
    with load(broken["too large for f16"], kv="f32") as engine:
        assert len(list(engine.tokens([1, 2, 3], 6))) == 6


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("settings", [GREEDY, Sampling(temperature=0.8)], ids=["greedy", "sampled"])
def test_the_device_says_so_itself(broken, monkeypatch, level, settings):
    """Without the look at the logits behind the prompt: by the word in the ring."""
    monkeypatch.setattr(loop_module, "check_finite", lambda *_: None)
    with load(broken["nan"], level) as engine:
        for _ in range(2):
            with pytest.raises(
                FusecError, match="behind token 3 at position 2 are not finite: the"
            ):
                list(engine.tokens([1, 2, 3], 40, settings))


def test_two_threads_get_their_own_logits(engine):
    prompts = IDS[:5], IDS[5:12]
    wanted = [engine.logits(prompt).tobytes() for prompt in prompts]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda p: engine.logits(p).tobytes(), prompts * 10))
    assert found == wanted * 10


def test_a_forked_child_is_refused_and_the_parent_goes_on(engine):
    wanted = list(engine.tokens(IDS[:4], 20))
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        signal.alarm(30)
        refused = 0
        for use in (lambda: engine.step(1), lambda: list(engine.tokens([1], 2)), Driver):
            try:
                use()
            except FusecError:
                refused += 1
        engine.close()
        os._exit(refused != 3)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(engine.tokens(IDS[:4], 20)) == wanted


def test_an_engine_that_is_closed_says_so(tiny_model):
    with load(tiny_model) as engine:
        generation = engine.tokens([1], 9)
        next(generation)
    for use in (lambda: next(generation), lambda: engine.step(1), lambda: engine.tokens([1])):
        with pytest.raises(FusecError, match="closed"):
            use()
