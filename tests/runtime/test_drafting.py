"""Drafted tokens change no byte: whoever guesses, however it is drawn, wherever it ends."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusec
from fusec import Engine, Sampling
from fusec.errors import FusecError
from fusec.ir.pages import PAGE
from fusec.models.small import config_of
from fusec.models.synth import synthesize
from fusec.runtime.drafting import DRAFTERS, Auto, Guess, Recycle, Row, Suffix
from fusec.runtime.drafting.model import ModelDrafter
from fusec.runtime.drafting.suffix import LONGEST, confidence_of
from tests.runtime.drafters import Nonsense, Scripted, draft_with

CONTEXT, VOCABULARY = 96, 512
IDS = [5, 6, 7, 5, 6, 7, 5, 6]
WARM = [Sampling(0.9, top_k=0, top_p=1, min_p=0, seed=seed) for seed in (1, 2, 3)]
PENALTY = Sampling(0.7, repeat_penalty=1.3, repeat_last=12, seed=5)
SAMPLINGS = [Sampling(), *WARM, PENALTY, Sampling(repeat_penalty=1.4)]

pytestmark = pytest.mark.xdist_group("drafting")


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Iterator[Engine]:
    with fusec.load(tiny_model, context=CONTEXT) as engine:
        yield engine


@pytest.fixture
def engine(loaded: Engine) -> Iterator[Engine]:
    loaded.stop, loaded.drafter, loaded.draft_max = frozenset(), None, 15
    loaded.reset()
    yield loaded
    loaded.drafter = None


def plain(engine: Engine, ids: Sequence[int], count: int, sampling: Sampling) -> list[int]:
    engine.drafter = None
    return list(engine.tokens(ids, count, sampling))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("name", [*DRAFTERS, "nonsense", "truth", "half"])
def test_a_drafter_changes_no_token(engine: Engine, name: str, sampling: Sampling) -> None:
    wanted = plain(engine, IDS, 80, sampling)
    half = [t if n % 3 else (t + 1) % VOCABULARY for n, t in enumerate(wanted)]
    drafter = {
        "nonsense": Nonsense(VOCABULARY),
        "truth": Scripted([*IDS, *wanted]),
        "half": Scripted([*IDS, *half]),
    }.get(name) or DRAFTERS[name]()
    draft_with(engine, drafter)
    assert list(engine.tokens(IDS, 80, sampling)) == wanted
    found = engine.draft_statistics
    assert found.tokens == 80
    assert found.accepted == 80 - found.steps
    if name == "truth":
        assert found.steps == 5 and found.acceptance == 1  # of 16 rows each
    if name == "nonsense":
        assert found.drafted > 10 * found.accepted


@pytest.mark.parametrize("sampling", [Sampling(), WARM[0]], ids=["greedy", "sampled"])
def test_the_truth_takes_as_many_steps_as_its_guesses_need(
    engine: Engine, sampling: Sampling
) -> None:
    wanted = plain(engine, IDS, 60, sampling)
    for most in (1, 3, 7):
        engine.draft_max = most
        draft_with(engine, Scripted([*IDS, *wanted]))
        assert list(engine.tokens(IDS, 60, sampling)) == wanted
        assert engine.draft_statistics.steps == -(-60 // (most + 1))


def test_logits_are_those_of_plain_steps(engine: Engine) -> None:
    wanted = [chosen.logits.tobytes() for chosen in engine.choices(IDS, 30)]
    draft_with(engine, Scripted([*IDS, *plain(engine, IDS, 30, Sampling())]))
    found = list(engine.choices(IDS, 30))
    assert [chosen.logits.tobytes() for chosen in found] == wanted
    assert engine.draft_statistics.steps < 4


def test_the_context_is_filled_and_no_more(engine: Engine) -> None:
    wanted = plain(engine, IDS, CONTEXT - len(IDS) + 1, Sampling())
    for drafter in (Scripted([*IDS, *wanted, *range(40)]), Nonsense(VOCABULARY)):
        draft_with(engine, drafter)
        assert list(engine.tokens(IDS)) == wanted
        assert engine.position == CONTEXT
    one = list(range(CONTEXT))
    assert list(engine.tokens(one, 1)) == plain(engine, one, 1, Sampling())


def test_a_stop_token_among_drafted_ones(engine: Engine) -> None:
    wanted = plain(engine, IDS, 40, WARM[1])
    for place in (n for n in range(3, 20) if wanted[n] not in wanted[:n]):
        engine.stop = frozenset({wanted[place]})
        draft_with(engine, Scripted([*IDS, *wanted]))
        assert list(engine.tokens(IDS, 40, WARM[1])) == wanted[:place]
        assert engine.ids == (*IDS, *wanted[:place])
        assert engine.position == len(IDS) + place


def test_every_limit_ends_it(engine: Engine) -> None:
    wanted = plain(engine, IDS, 40, Sampling())
    for count in range(20):
        draft_with(engine, Scripted([*IDS, *wanted]))
        assert list(engine.tokens(IDS, count)) == wanted[:count]
        if count:
            assert engine.position == len(IDS) + count - 1


def test_a_processor_is_asked_for_the_tokens_that_count(engine: Engine) -> None:
    def record(into: list[tuple[int, ...]]):
        def processor(ids: Sequence[int], logits: np.ndarray) -> None:
            into.append(tuple(ids))
            logits[ids[-1]] = -np.inf  # never twice in a row

        return processor

    plainly: list[tuple[int, ...]] = []
    wanted = engine.generate(IDS, 30, PENALTY, processor=record(plainly))
    for text in ([*IDS, *wanted], [*IDS, *wanted.ids[:9], 1, 2, 3]):
        draft_with(engine, Scripted(text))
        drafted: list[tuple[int, ...]] = []
        assert engine.generate(IDS, 30, PENALTY, processor=record(drafted)) == wanted
        assert drafted == plainly


def test_log_probabilities_are_the_same(engine: Engine) -> None:
    wanted = engine.generate(IDS, 24, WARM[0], logprobs=3)
    draft_with(engine, Suffix())
    assert engine.generate(IDS, 24, WARM[0], logprobs=3) == wanted


def test_a_sequence_goes_on_behind_drafted_tokens(engine: Engine) -> None:
    wanted = plain(engine, IDS, 40, Sampling())
    text = [*IDS, *wanted]
    for most in range(1, 12):
        draft_with(engine, Scripted(text))
        first = list(engine.tokens(IDS, most))
        assert first + list(engine.tokens([], 40 - most, append=True)) == wanted
        made = engine.tokens(IDS, 30)
        for _ in range(most):  # left in the middle of a step
            next(made)
        made.close()
        assert (engine.position, engine.ids) == (len(IDS) + most - 1, tuple(text[: 8 + most]))
        assert list(engine.tokens([], 40 - most, append=True)) == wanted[most:]
        assert list(engine.tokens(text[:20], 28, reuse=True)) == wanted[12:]


def test_a_sequence_is_saved_in_the_middle_of_a_step(engine: Engine, tmp_path: Path) -> None:
    wanted = plain(engine, IDS, 30, Sampling())
    draft_with(engine, Scripted([*IDS, *wanted]))
    made = engine.tokens(IDS, 30)
    first = [next(made) for _ in range(5)]
    engine.save(tmp_path / "saved.npz")
    assert [*first, *made] == wanted
    engine.restore(tmp_path / "saved.npz")
    assert [*first, *engine.tokens([], 25, append=True)] == wanted


def test_a_generation_notices_another_use_between_drafted_tokens(engine: Engine) -> None:
    draft_with(engine, Scripted([*IDS, *plain(engine, IDS, 20, Sampling())]))
    made = engine.tokens(IDS, 20)
    next(made)
    engine.step(1)
    with pytest.raises(FusecError, match="used for something else during a generation"):
        next(made)


def test_rows_that_count_are_finite_and_others_may_not_be(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = plain(engine, IDS, 6, Sampling())
    step = engine.prefill.step

    def spoilt(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        result = step(**inputs)
        result["logits"][3:] = np.nan
        return result

    monkeypatch.setattr(engine.prefill, "step", spoilt)
    draft_with(engine, Scripted([*IDS, wanted[0], 0, 1, 2, 3, 4, 5]))
    made = engine.tokens(IDS, 6)
    assert [next(made), next(made)] == wanted[:2]
    draft_with(engine, Scripted([*IDS, *wanted]))
    made = engine.tokens(IDS, 6)
    assert [next(made) for _ in range(3)] == wanted[:3]
    with pytest.raises(FusecError, match=f"behind token {wanted[2]} at position 10 are not finite"):
        next(made)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Gemma 3 with a window, whose layers keep four pages of 256 positions."""
    config = replace(config_of("gemma3"), context=1500, window=20)
    path = synthesize(config, tmp_path_factory.mktemp("models") / "gemma3.gguf")
    with fusec.load(path, context=1500) as engine:
        engine.stop = frozenset()
        yield engine


LONG = [int(i) for i in np.random.default_rng(3).integers(0, 320, 1010)]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), *WARM], ids=str)
def test_layers_with_windows(windowed: Engine, sampling: Sampling) -> None:
    wanted = plain(windowed, LONG, 60, sampling)
    for drafter in (Auto(), Nonsense(windowed.vocabulary), Scripted([*LONG, *wanted])):
        draft_with(windowed, drafter)
        assert list(windowed.tokens(LONG, 60, sampling, reuse=True)) == wanted


def test_a_window_goes_back_as_far_as_drafted_rows_let_it(windowed: Engine, tmp_path: Path) -> None:
    every = windowed.logits([*LONG, *LONG[:60]])
    draft_with(windowed, Scripted([*LONG, *LONG[:60]]))
    made = windowed.tokens(LONG)
    next(made)
    made.close()
    oldest = PAGE + 19  # what was drafted up to position 1024 has begun a fifth page
    assert windowed.position == 1010
    windowed.save(tmp_path / "saved.npz")
    for again in (False, True):
        if again:
            windowed.restore(tmp_path / "saved.npz")
        with pytest.raises(FusecError, match="the layers' window has moved on"):
            windowed.rewind(oldest - 1)
        windowed.rewind(oldest)
        assert windowed.step(LONG[oldest]).tobytes() == every[oldest].tobytes()
    windowed.rewind(0)
    windowed.feed(LONG[:9])
    windowed.rewind(3)  # nothing is left of what was there before
    assert windowed.step(LONG[3]).tobytes() == every[3].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), WARM[0]], ids=["greedy", "sampled"])
def test_the_demo_model_writes_the_same_story(sampling: Sampling) -> None:
    with fusec.load("demo") as engine:
        wanted = engine.generate("Once upon a time", 100, sampling, stop=["\n\n"])
        for name in DRAFTERS:
            draft_with(engine, DRAFTERS[name]())
            assert engine.generate("Once upon a time", 100, sampling, stop=["\n\n"]) == wanted
            pieces = engine.stream("Once upon a time", 100, sampling, stop=["\n\n"])
            assert "".join(str(piece) for piece in pieces) == wanted.text


def test_a_draft_model(tiny_model: Path, engine: Engine) -> None:
    wanted = plain(engine, IDS, 60, Sampling())
    with fusec.load(tiny_model, context=64, draft=tiny_model, draft_max=3) as other:
        assert isinstance(other.drafter, ModelDrafter)
    with fusec.load(tiny_model, context=CONTEXT) as other:
        other.stop = frozenset()
        draft_with(other, ModelDrafter(fusec.load(tiny_model, context=40)))
        for sampling in SAMPLINGS:  # one after another: the draft model's cache is set back
            expected = plain(engine, IDS, 60, sampling)
            draft_with(other, other.drafter)
            assert list(other.tokens(IDS, 60, sampling)) == expected
            if sampling == Sampling():
                assert expected == wanted
                assert other.draft_statistics.accepted > 0


def test_a_draft_model_has_the_same_vocabulary(tiny_model: Path) -> None:
    with pytest.raises(FusecError, match=r"draft model has to have the vocabulary of .*tiny.gguf"):
        fusec.load(tiny_model, draft="demo")
    with pytest.raises(
        FusecError, match="draft: expected off, auto, suffix, recycle, mtp or a model"
    ):
        fusec.load(tiny_model, draft="sufix")
    with pytest.raises(FusecError, match="draft_max: expected a number of tokens from 1, found 0"):
        fusec.load(tiny_model, draft="auto", draft_max=0)


@pytest.mark.parametrize("draft", [5, None, True])
def test_what_names_no_drafter(tiny_model: Path, draft: object) -> None:
    with pytest.raises(
        FusecError, match="draft: expected off, auto, suffix, recycle, mtp or a model, f"
    ):
        fusec.load(tiny_model, draft=draft)  # type: ignore[arg-type]


def test_a_guess_out_of_vocabulary(engine: Engine) -> None:
    draft_with(engine, Nonsense(VOCABULARY * 9))
    with pytest.raises(FusecError, match=f"out of vocabulary: expected 0 to {VOCABULARY - 1}"):
        list(engine.tokens(IDS, 20))


@pytest.mark.parametrize(
    ("proposed", "found"),
    [
        (7, "propose: expected guesses, such as Guess.*, found 7"),
        ([5], "propose: expected guesses, such as Guess.*, found 5"),
        ([Guess("a", 0.5)], "expected token ids: "),  # type: ignore[arg-type]
    ],
)
def test_what_are_no_guesses(engine: Engine, proposed: object, found: str) -> None:
    class Odd(Scripted):
        def propose(self, most: int) -> Any:
            return proposed

    draft_with(engine, Odd([]))
    with pytest.raises(FusecError, match=found):
        list(engine.tokens(IDS, 20))


def test_what_is_no_drafter(engine: Engine) -> None:
    with pytest.raises(FusecError, match="expected a drafter, found str"):
        engine.drafter = "auto"  # type: ignore[assignment]


def test_load_gives_the_drafter_that_is_asked_for(tiny_model: Path) -> None:
    with fusec.load(tiny_model, context=24, draft="suffix", draft_max=4) as engine:
        assert isinstance(engine.drafter, Suffix)
        assert engine.draft_max == 4
    with fusec.load(tiny_model, context=24) as engine:
        assert engine.drafter is None


def test_a_drafter_is_closed_with_its_engine(tiny_model: Path) -> None:
    closed: list[bool] = []

    class Noted(Suffix):
        def close(self) -> None:
            closed.append(True)

    engine = fusec.load(tiny_model, context=24)
    engine.drafter = Noted()
    engine.close()
    assert closed == [True]


def test_every_row_is_shown_to_the_drafter_once(engine: Engine) -> None:
    wanted = plain(engine, IDS, 12, Sampling())
    scripted = Scripted([*IDS, *wanted[:5], 1, 2, 3])
    draft_with(engine, scripted)
    assert list(engine.tokens(IDS, 12)) == wanted
    tokens, rows = scripted.steps[0]
    assert tokens == wanted[:6]
    assert [row.token for row in rows] == [IDS[-1], *wanted[:5], 1, 2, 3]
    assert [row.best for row in rows[:6]] == wanted[:6]
    logits = engine.logits([*IDS, *wanted[:5], 1, 2, 3])
    assert [row.best for row in rows] == logits[-9:].argmax(axis=-1).tolist()


# -- what the drafters propose ---------------------------------------------------------------------


def proposed(drafter: Suffix | Recycle, most: int = 4) -> list[int]:
    return [guess.token for guess in drafter.propose(most)]


def test_suffix_follows_the_longest_and_the_most_recent_match() -> None:
    suffix = Suffix()
    suffix.begin([1, 2, 3, 4, 9, 3, 5, 1, 2, 3])
    assert proposed(suffix) == [4, 9, 3, 5]  # three tokens match in front, one later on
    suffix.seen([5], [])
    assert proposed(suffix, 2) == [1, 2]
    suffix.begin([8, 9])
    assert proposed(suffix) == []


def test_suffix_goes_round_where_the_text_repeats_itself() -> None:
    suffix = Suffix()
    suffix.begin([1, 2, 3, 1, 2, 3, 1])
    assert proposed(suffix, 7) == [2, 3, 1, 2, 3, 1, 2]
    suffix.begin([4, 4])
    assert proposed(suffix, 3) == [4, 4, 4]


def test_suffix_is_surer_of_longer_matches() -> None:
    suffix, found = Suffix(), []
    for n in (1, 2, 5, 20):
        text = list(range(100, 100 + n))
        suffix.begin([*text, 1, 2, *text])
        found.append(suffix.propose(1)[0].confidence)
    assert found == sorted(found) and len(set(found)) == 4
    suffix.begin([1, 2, 3, 4, 5, 6, 9, 1])
    each = [guess.confidence for guess in suffix.propose(4)]
    assert each == [confidence_of(1 + n) for n in range(4)]  # a right one makes the match longer


def test_suffix_reads_what_it_knows_of_a_sequence_once() -> None:
    suffix = Suffix()
    suffix.begin([1, 2, 3])
    known = suffix._pairs
    suffix.begin((1, 2, 3, 1, 2))
    assert suffix._pairs is known
    assert proposed(suffix) == [3, 1, 2, 3]
    suffix.begin([1, 2, 9, 1, 2])  # another one
    assert suffix._pairs is not known
    assert proposed(suffix, 1) == [9]
    suffix.begin([1, 2])  # the beginning of it
    assert proposed(suffix) == []


def longest_match(tokens: Sequence[int]) -> tuple[int, int]:
    """Its length, and the newest place behind one."""
    found = (0, 0)
    for place in range(1, len(tokens)):
        pairs = zip(reversed(tokens[:place]), reversed(tokens), strict=False)
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        found = max(found, (min(same, LONGEST), place)) if same else found
    return found


@pytest.mark.parametrize("variety", [2, 4, 30])
def test_suffix_finds_the_longest_match_however_the_tokens_come(variety: int) -> None:
    pick = random.Random(variety)
    for _ in range(20):
        suffix, tokens = Suffix(), pick.choices(range(variety), k=4)
        suffix.begin(tokens)
        for _ in range(12):  # now what was guessed, now something else
            new = [guess.token for guess in suffix.propose(pick.randrange(1, 6))]
            if not new or pick.random() < 0.5:
                new = pick.choices(range(variety), k=pick.randrange(1, 6))
            suffix.seen(new, ())
            tokens = tokens + new
            assert (suffix.matched, suffix.place) == longest_match(tokens)


def test_recycle_knows_rows_that_were_rejected_and_earlier_sequences() -> None:
    recycle = Recycle()
    recycle.begin([1, 2])
    assert proposed(recycle) == []
    recycle.seen([3], [Row(2, 3), Row(7, 8), Row(8, 2)])  # 7 was guessed in place of 3
    assert proposed(recycle) == []
    recycle.seen([7], [Row(3, 7)])
    assert proposed(recycle, 5) == [8, 2, 3, 7, 8]
    recycle.begin([5, 8])
    assert proposed(recycle, 2) == [2, 3]
    recycle.begin([7, 8])
    pair, single = recycle.propose(2)
    assert single.confidence < pair.confidence


def test_a_chain_of_recycled_guesses_may_be_bounded() -> None:
    recycle = Recycle(3)
    recycle.begin([1, 1])
    recycle.seen([1], [Row(1, 1)])
    assert proposed(recycle, 9) == [1, 1, 1]
    assert proposed(recycle, 2) == [1, 1]
    recycle.begin([5, 1])  # a token alone is not looked up then
    assert proposed(recycle) == []
