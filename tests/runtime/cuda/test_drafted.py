"""Drafted tokens on the device, over a driver without a GPU: the same ids, however they come.

`draft` and `accept` are the kernels themselves, run by the NumPy twins.
"""

from __future__ import annotations

import numpy as np
import pytest

from fusec import Sampling
from fusec.errors import FusecError
from fusec.runtime.cuda.drafted import AHEAD
from fusec.runtime.cuda.pace import GraphCost, Pace
from fusec.runtime.drafting import Auto, Recycle, Suffix
from tests.runtime.cuda import fake
from tests.runtime.cuda.machine import CONTEXT, Machine, compiled_for_a_gpu
from tests.runtime.drafters import FREE, Nonsense, Scripted, draft_with

IDS = [5, 6, 7, 5, 6, 7, 5, 6]
SAMPLED = Sampling(temperature=0.8, seed=4)
pytestmark = pytest.mark.xdist_group("drafted")


@pytest.fixture(scope="module")
def compiled(tiny_model):
    return compiled_for_a_gpu(tiny_model)


@pytest.fixture(scope="module")
def machine(compiled):
    return Machine(compiled)


@pytest.fixture
def engine(machine):
    found = machine.built
    found.stop, found.drafter, found.draft_max = frozenset(), None, 15
    return found


def plain(engine, ids, count, sampling=Sampling()):  # noqa: B008
    engine.drafter = None
    return list(engine.tokens(ids, count, sampling))


def eager_to_draft(engine, drafter):
    """Every match is worth as many guesses as there may be."""
    engine.drafter = drafter
    kinds = {Suffix: (True, False), Recycle: (False, True), Auto: (True, True)}[type(drafter)]
    engine._pace = Pace(engine.draft_max, suffix=kinds[0], recycle=kinds[1], cost=GraphCost(FREE))
    engine._paced = engine._drafting, engine.draft_max


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("drafter", [Suffix, Recycle, Auto])
def test_the_device_drafts_and_changes_no_token(engine, drafter, sampling):
    wanted = plain(engine, IDS, 60, sampling)
    eager_to_draft(engine, drafter())
    for _ in range(2):  # the second time what was recycled is known
        assert list(engine.tokens(IDS, 60, sampling)) == wanted
        found = engine.draft_statistics
        assert found.tokens == 60 == found.steps + found.accepted
        assert engine.position == len(IDS) + 59
        assert engine.ids == (*IDS, *wanted)


def periodic(monkeypatch, period):
    """The fake driver's sampler makes a text that repeats itself, so that guesses are right."""

    def sample(logits, scores, chosen, pos, tokens, params):
        fake._words(chosen)[0] = 20 + (int(fake._words(pos)[0]) + 1) % period

    monkeypatch.setattr(fake, "sample", sample)
    monkeypatch.setitem(fake.CONTROL, "sample", sample)


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("drafter", [Suffix, Recycle, Auto])
def test_a_text_that_repeats_itself_takes_few_steps(compiled, monkeypatch, drafter, eager):
    periodic(monkeypatch, 5)
    engine = Machine(compiled, eager=eager).built
    wanted = plain(engine, IDS, 80, SAMPLED)
    assert wanted == [20 + (8 + n) % 5 for n in range(80)]
    eager_to_draft(engine, drafter())
    assert list(engine.tokens(IDS, 80, SAMPLED)) == wanted
    found = engine.draft_statistics
    assert found.steps < (45 if drafter is Recycle else 25), str(found)
    assert found.steps + found.accepted == 80
    assert found.acceptance > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["greedy", "sampled"])
def test_stops_and_limits_hold_among_drafted_tokens(compiled, monkeypatch, kind):
    periodic(monkeypatch, 7)
    sampling = SAMPLED if kind == "sampled" else Sampling()
    engine = Machine(compiled).built
    wanted = plain(engine, IDS, 40, sampling)
    for count in (1, 2, 3, 9, 17, 33):
        eager_to_draft(engine, Auto())
        assert list(engine.tokens(IDS, count, sampling)) == wanted[:count]
        assert engine.position == len(IDS) + count - 1
        rest = list(engine.tokens([], 40 - count, sampling, append=True))
        assert rest == wanted[count:]
    last = next(n for n in range(39, 0, -1) if wanted[n] not in wanted[:n])
    engine.stop = frozenset({wanted[last]})
    eager_to_draft(engine, Auto())
    assert list(engine.tokens(IDS, 40, sampling)) == wanted[:last]
    assert engine.position == len(IDS) + last
    engine.stop = frozenset()
    assert plain(engine, IDS, 40, sampling) == wanted  # what ran ahead disturbs nobody


def test_where_the_gpu_waits_the_next_graph_comes_before_all_else(engine, monkeypatch):
    eager_to_draft(engine, Auto())
    events = []

    def noted(owner, name):
        work = getattr(owner, name)

        def call(*args, **kwargs):
            events.append(name)
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((engine._pace, "seen"), (engine._pace, "learn")):
        noted(owner, name)
    noted(engine.workspace.driver, "replay")
    list(engine.tokens(IDS, 30))
    assert engine.draft_statistics.drafted
    behind = [events[n + 1] for n, name in enumerate(events) if name == "seen"]
    assert "replay" in behind and behind[-1] == "learn"  # nothing stands behind the last


@pytest.mark.slow
def test_the_context_is_filled_and_nothing_lies_behind_it(compiled, monkeypatch):
    periodic(monkeypatch, 3)
    machine = Machine(compiled)
    engine = machine.built
    wanted = plain(engine, IDS, CONTEXT - len(IDS) + 1, SAMPLED)
    seen = []
    check = fake.PlanKernel._row

    def noted(self, row, at, values):
        if machine.loop.pos in at.values():
            seen.append(int(fake._words(machine.loop.pos, 16)[row]))
        return check(self, row, at, values)

    monkeypatch.setattr(fake.PlanKernel, "_row", noted)
    eager_to_draft(engine, Suffix())
    assert list(engine.tokens(IDS, None, SAMPLED)) == wanted
    assert max(seen) == CONTEXT - 1
    assert engine.draft_statistics.accepted > 40


@pytest.mark.slow
def test_a_generation_left_early_does_not_disturb_the_next(compiled, monkeypatch):
    periodic(monkeypatch, 4)
    engine = Machine(compiled).built
    wanted = plain(engine, IDS, 30, SAMPLED)
    for left in (1, 2, 6, 11):
        for drafts in (True, False):
            eager_to_draft(engine, Suffix())
            made = engine.tokens(IDS, 60, SAMPLED)
            assert [next(made) for _ in range(left)] == wanted[:left]
            made.close()
            if not drafts:
                engine.drafter = None
            assert list(engine.tokens([], 30 - left, SAMPLED, append=True)) == wanted[left:]


@pytest.mark.slow
def test_guesses_of_the_host_are_checked_on_the_device(engine):
    for sampling in (Sampling(), SAMPLED):
        wanted = plain(engine, IDS, 50, sampling)
        half = [t if n % 4 else (t + 1) % 512 for n, t in enumerate(wanted)]
        for drafter, most in (
            (Scripted([*IDS, *wanted]), 5), (Scripted([*IDS, *half]), 40), (Nonsense(512), 50)
        ):  # fmt: skip
            draft_with(engine, drafter)
            assert list(engine.tokens(IDS, 50, sampling)) == wanted
            found = engine.draft_statistics
            assert found.steps + found.accepted == found.tokens == 50
            assert found.steps <= most


def test_a_guess_out_of_vocabulary_never_gets_to_the_device(engine):
    draft_with(engine, Nonsense(9 * 512))
    with pytest.raises(FusecError, match="is out of vocabulary: expected 0 to 511"):
        list(engine.tokens(IDS, 20))


def test_a_host_drafter_is_shown_what_every_row_has_chosen(engine):
    wanted = plain(engine, IDS, 12)
    scripted = Scripted([*IDS, *wanted[:5], 1, 2, 3])
    draft_with(engine, scripted)
    assert list(engine.tokens(IDS, 12)) == wanted
    (_, (tokens, rows)) = scripted.steps[:2]  # the first token comes by a plain graph
    assert tokens == wanted[1:6]
    assert [row.token for row in rows] == [*wanted[:5], 1, 2, 3]
    logits = engine.logits([*IDS, *wanted[:5], 1, 2, 3])
    assert [row.best for row in rows] == logits[-8:].argmax(axis=-1).tolist()


def test_logits_and_processors_are_drafted_for_on_the_host(engine):
    wanted = [chosen.token for chosen in engine.choices(IDS, 20)]
    draft_with(engine, Scripted([*IDS, *wanted]))
    assert [chosen.token for chosen in engine.choices(IDS, 20)] == wanted
    assert engine.draft_statistics.steps == 2


def test_a_logit_that_is_not_finite_is_said_where_a_token_would_come(engine, monkeypatch):
    def spoilt(logits, scores, chosen, pos, tokens, params):
        position = int(fake._words(pos)[0])
        fake._words(chosen)[0] = 20 + (position + 1) % 4
        if position >= len(IDS) + 20:
            fake.view(logits, "f32", (512,))[:] = np.nan

    monkeypatch.setattr(fake, "sample", spoilt)
    monkeypatch.setitem(fake.CONTROL, "sample", spoilt)
    engine = Machine(engine_compiled(engine)).built
    eager_to_draft(engine, Suffix())
    made = engine.tokens(IDS, 40, SAMPLED)
    with pytest.raises(FusecError, match="at position 28 are not finite"):
        for _ in range(40):
            next(made)
    assert engine.position == 28


def engine_compiled(engine):
    return compiled_for_a_gpu(engine.model.file.path)


@pytest.mark.slow
def test_graphs_are_enqueued_ahead_and_captured_once(compiled, monkeypatch):
    periodic(monkeypatch, 5)
    machine = Machine(compiled)
    engine = machine.built
    eager_to_draft(engine, Suffix())
    list(engine.tokens(IDS, 80, SAMPLED))
    machine.api.log.clear()
    eager_to_draft(engine, Suffix())
    made = engine.tokens(IDS, 80, SAMPLED)
    next(made)  # behind the prompt and a plain token
    assert 2 < machine.api.log.count("cuGraphLaunch") <= 2 + AHEAD
    next(made)
    assert machine.api.log.count("cuGraphLaunch") <= 3 + AHEAD
    list(made)
    assert "cuStreamBeginCapture" not in machine.api.log


@pytest.mark.slow
def test_a_new_drafter_knows_nothing_of_an_earlier_one(compiled, monkeypatch):
    periodic(monkeypatch, 50)
    engine = Machine(compiled).built
    engine.drafter = Recycle()
    for accepted in (False, True):  # a text that does not repeat itself, and then does
        list(engine.tokens(IDS, 40, SAMPLED))
        assert (engine.draft_statistics.accepted > 0) == accepted
    engine.drafter = Recycle()
    list(engine.tokens(IDS, 40, SAMPLED))
    assert engine.draft_statistics.accepted == 0


def test_nothing_is_loaded_until_somebody_drafts(compiled):
    machine = Machine(compiled)
    machine.run(IDS, 3)
    assert not any("draft" in names for names in machine.asked)
