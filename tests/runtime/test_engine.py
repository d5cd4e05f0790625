"""The token loop: chunks and steps agree, generations end where they should, limits hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fusec
from fusec.errors import FusecError
from fusec.runtime.engine import Engine
from fusec.runtime.job import new_tokens
from fusec.runtime.sampling import Sampler, Sampling

CONTEXT, CHUNK, VOCABULARY = 48, 16, 512
IDS = [int(i) for i in np.random.default_rng(0).integers(0, VOCABULARY, CONTEXT)]
GREEDY = Sampling()
WARM = Sampling(temperature=1.3, top_k=0, top_p=1, min_p=0, repeat_penalty=1.2, seed=4)

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Engine:
    return fusec.load(tiny_model, context=CONTEXT, kv="f32")


@pytest.fixture
def engine(loaded: Engine) -> Iterator[Engine]:
    loaded.stop = frozenset()
    loaded.reset()
    yield loaded


def stepped(engine: Engine, ids: list[int]) -> np.ndarray:
    engine.reset()
    return np.stack([engine.step(token) for token in ids])


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 48])
def test_chunks_equal_steps_to_the_byte(engine: Engine, length: int) -> None:
    assert engine.prefill.plan.tokens == CHUNK
    together = engine.logits(IDS[:length])
    assert together.dtype == np.float32
    assert together.shape == (length, VOCABULARY)
    assert np.isfinite(together).all()
    assert together.tobytes() == stepped(engine, IDS[:length]).tobytes()


@pytest.mark.parametrize("width", [1, 5, np.int64(CHUNK)])
def test_a_step_takes_as_many_tokens_as_asked_for(
    engine: Engine, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = engine.prefill.step, []

    def counted(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        taken.append(len(inputs["token"]))
        return step(**inputs)

    wanted = engine.logits(IDS[:17])
    monkeypatch.setattr(engine.prefill, "step", counted)
    assert engine.logits(IDS[:17], width).tobytes() == wanted.tobytes()
    assert taken == [min(width, 17 - i) for i in range(0, 17, width)]


@pytest.mark.parametrize("width", [0, CHUNK + 1, 2.5])
def test_widths_that_no_step_takes(engine: Engine, width: int) -> None:
    engine.step(1)
    with pytest.raises(FusecError, match="expected a width from 1 to 16"):
        engine.logits(IDS[:3], width)
    assert engine.position == 1  # nothing has been done


def test_waiting_is_no_use_of_the_engine(engine: Engine) -> None:
    plain = list(engine.tokens(IDS[:4], 6))
    made = engine.tokens(IDS[:4], 6)
    first = next(made)
    engine.wait()
    assert [first, *made] == plain


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_a_fed_prompt_leaves_the_same_cache(engine: Engine, length: int) -> None:
    wanted = stepped(engine, [*IDS[:length], 3])[-1]
    engine.reset()
    engine.feed(IDS[:length])
    assert engine.position == length
    assert engine.step(3).tobytes() == wanted.tobytes()


def test_logits_start_from_an_empty_cache(engine: Engine) -> None:
    first = engine.logits(IDS[:5])
    engine.feed([1, 2, 3])
    assert engine.logits(IDS[:5]).tobytes() == first.tobytes()
    assert engine.position == 5


def test_results_are_the_callers_own(engine: Engine) -> None:
    first = engine.step(1)
    kept = first.copy()
    engine.step(2)
    assert first.tobytes() == kept.tobytes()


def test_reset_forgets_everything(engine: Engine) -> None:
    first = engine.step(7)
    second = engine.step(7)
    assert first.tobytes() != second.tobytes()
    engine.reset()
    assert engine.position == 0
    assert engine.step(7).tobytes() == first.tobytes()


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("length", [1, 17])
def test_generate_is_the_loop_one_would_write(
    engine: Engine, sampling: Sampling, length: int
) -> None:
    prompt = IDS[:length]
    wanted, sampler = [], Sampler(sampling)
    logits = stepped(engine, prompt)[-1]
    for token in prompt:
        sampler.accept(token)
    for _ in range(20):
        token = sampler.choose(logits, engine.position)
        sampler.accept(token)
        wanted.append(token)
        logits = engine.step(token)
    assert list(engine.tokens(prompt, 20, sampling)) == wanted
    assert list(engine.tokens(prompt, 20, sampling)) == wanted  # the seed starts anew
    if sampling is GREEDY:
        assert list(engine.tokens(prompt, 20)) == wanted


def test_generate_fills_the_context_and_no_more(engine: Engine) -> None:
    prompt = IDS[:10]
    room = CONTEXT - 10 + 1  # the last token is never fed back
    assert len(list(engine.tokens(prompt))) == room
    assert engine.position == CONTEXT
    assert len(list(engine.tokens(prompt, room))) == room
    with pytest.raises(FusecError, match=f"do not fit a context of {CONTEXT}: ask for at most 39"):
        engine.tokens(prompt, room + 1)
    assert len(list(engine.tokens(IDS, 1))) == 1  # a prompt as long as the context


def test_generate_nothing(engine: Engine) -> None:
    assert list(engine.tokens([5], 0)) == []
    with pytest.raises(FusecError, match="a number of new tokens from 0 to 48, found -1"):
        engine.tokens([5], -1)


def test_generate_ends_in_front_of_a_stop_token(engine: Engine) -> None:
    whole = list(engine.tokens([5], 12, WARM))
    place = next(i for i, token in enumerate(whole) if i >= 2 and token not in whole[:i])
    engine.stop = frozenset({whole[place]})
    assert list(engine.tokens([5], 12, WARM)) == whole[:place]
    engine.stop = frozenset({5})  # in the prompt it stops nothing
    assert list(engine.tokens([5], 2, WARM)) == whole[:2]


def test_a_generation_notices_another_use(engine: Engine) -> None:
    for disturb in (engine.reset, lambda: engine.step(1), lambda: next(engine.tokens([2], 5))):
        generation = engine.tokens([5], 4)
        next(generation)
        disturb()
        with pytest.raises(FusecError, match="used for something else during a generation"):
            next(generation)


def test_an_abandoned_generation_harms_nobody(engine: Engine) -> None:
    wanted = list(engine.tokens([5, 6], 6))
    abandoned = engine.tokens([9, 9, 9], 20)
    next(abandoned)
    assert list(engine.tokens([5, 6], 6)) == wanted


def test_the_context_is_a_limit_for_steps(engine: Engine) -> None:
    stepped(engine, IDS)
    with pytest.raises(FusecError, match=f"position {CONTEXT} is past the context of {CONTEXT}"):
        engine.step(1)
    assert engine.position == CONTEXT
    engine.reset()
    engine.feed(IDS[:40])
    with pytest.raises(FusecError, match="position 49 is past the context"):
        engine.feed(IDS[:10])


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "the prompt is empty"),
        ([512], "token 512 is out of vocabulary: expected 0 to 511"),
        ([0, -1], "token -1 is out of vocabulary"),
        ([1.0], "expected token ids"),
        (["1"], "expected token ids"),
        ([None], "expected token ids"),
        ([0] * (CONTEXT + 1), f"the prompt has 49 tokens, the context {CONTEXT}"),
    ],
)
def test_prompts_that_are_refused(engine: Engine, ids: list, reason: str) -> None:
    engine.feed([1, 2])
    for use in (engine.logits, engine.tokens):
        with pytest.raises(FusecError, match=reason):
            use(ids)
    assert engine.position == 2  # refused before anything was done


def test_steps_that_are_refused(engine: Engine) -> None:
    for token, reason in ((512, "out of vocabulary"), (-1, "out of"), (0.5, "expected token ids")):
        with pytest.raises(FusecError, match=reason):
            engine.step(token)
    assert engine.position == 0


def test_numpy_integers_are_ids(engine: Engine) -> None:
    ids = np.array(IDS[:3])
    assert engine.logits(ids).tobytes() == engine.logits(IDS[:3]).tobytes()
    assert engine.step(np.int64(3)).shape == (VOCABULARY,)


def test_a_context_shorter_than_a_chunk(tiny_model: Path) -> None:
    engine = fusec.load(tiny_model, context=5, kv="f32")
    assert engine.prefill.plan.tokens == 5
    assert engine.logits(IDS[:5]).tobytes() == stepped(engine, IDS[:5]).tobytes()
    assert len(list(engine.tokens(IDS[:5]))) <= 1
    engine.close()


def test_engines_do_not_share_their_caches(tiny_model: Path, engine: Engine) -> None:
    other = fusec.load(tiny_model, context=CONTEXT, kv="f32")
    wanted = stepped(engine, IDS[:4])
    engine.reset()
    other.reset()
    mixed = []
    for token in IDS[:4]:
        mixed.append(engine.step(token))
        other.step(511 - token)
    assert np.stack(mixed).tobytes() == wanted.tobytes()
    other.close()


def test_new_tokens() -> None:
    assert new_tokens(3, None, 10) == 8
    assert new_tokens(3, 8, 10) == 8
    assert new_tokens(10, 1, 10) == 1
    for prompt, wanted in ((3, 9), (11, None), (11, 0), (3, -1)):
        with pytest.raises(FusecError):
            new_tokens(prompt, wanted, 10)


def test_load_says_what_is_wrong(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FusecError, match=r"none\.gguf: no such file"):
        fusec.load(tmp_path / "none.gguf")
    with pytest.raises(FusecError, match="unknown level -O7"):
        fusec.load(tiny_model, level=7)
    with pytest.raises(FusecError, match="unknown KV cache type 'f8'"):
        fusec.load(tiny_model, kv="f8")
    with pytest.raises(FusecError, match="unknown target 'tpu'"):
        fusec.load(tiny_model, target="tpu")
    with pytest.raises(FusecError, match="expected a context from 1 to 512"):
        fusec.load(tiny_model, context=513)
