"""Drafts by a block of the model's own file: the same text, and guesses of the right states."""

from __future__ import annotations

import numpy as np
import pytest

import fusec
from fusec import Sampling, drafters, driver
from fusec.errors import FusecError
from fusec.ir.plan import HIDDEN
from fusec.ir.reference import Reference
from fusec.models.model import Model
from fusec.runtime.drafting.mtp import AutoMtp, MtpDrafter
from tests.runtime.drafters import draft_with
from tests.runtime.skilled import check_fewer_steps, check_going_on, skilled_model

IDS = [5, 6, 7, 5, 6, 7, 8]
COUNT = 24
SAMPLED = Sampling(0.9, top_k=0, top_p=1, min_p=0, seed=2)
pytestmark = pytest.mark.xdist_group("drafting")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return skilled_model(tmp_path_factory.mktemp("mtp"))


@pytest.fixture(scope="module")
def loaded(path):
    with fusec.load(path, draft="mtp") as engine:
        yield engine


@pytest.fixture
def engine(loaded):
    loaded.stop = frozenset()
    drafter = loaded.drafter
    yield loaded
    loaded.drafter = drafter


def plain(engine, sampling=Sampling()):  # noqa: B008
    drafter, engine.drafter = engine.drafter, None
    found = list(engine.tokens(IDS, COUNT, sampling))
    engine.drafter = drafter
    return found


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_the_text_is_the_same_in_fewer_steps(engine, sampling):
    wanted = plain(engine, sampling)
    draft_with(engine, engine.drafter)
    assert len(wanted) == COUNT
    check_fewer_steps(engine, IDS, wanted, sampling)
    check_going_on(engine, IDS, wanted, sampling, last=9)


def test_it_reads_what_the_model_left_behind_every_position(engine):
    draft_with(engine, engine.drafter)
    text = [*IDS, *engine.tokens(IDS, COUNT, SAMPLED)]  # few of its guesses are right
    states = engine.drafter._states[: len(text) - 1].copy()
    assert np.array_equal(engine.trace(text[:-1])[HIDDEN], states)


def test_it_guesses_what_the_block_makes_of_the_whole_sequence(engine, path):
    draft_with(engine, engine.drafter)
    text = [*IDS, *engine.tokens(IDS, COUNT, SAMPLED)]
    drafter = engine.drafter
    drafter.begin(text)
    block, rows = Model.open(path).drafting(), len(text) - 1
    reference = Reference(block.graph(tokens=rows, context=96), block.floats, np.float32)
    tokens, places = np.asarray(text[1:], np.int32), np.arange(rows, dtype=np.int32)
    found = reference.step(token=tokens, pos=places, hidden=drafter._states[:rows])
    logits = found["logits"][-1]
    (guess,) = drafter.propose(1)
    assert guess.token == logits.argmax()
    shares = np.exp(logits - logits.max())
    assert guess.confidence == pytest.approx(1 / shares.sum(), rel=1e-3)


def test_near_the_end_of_the_context_it_guesses_no_further(engine):
    draft_with(engine, engine.drafter)
    text = list(engine.tokens(IDS))
    assert len(IDS) + len(text) == engine.context + 1  # the last token is read by nobody
    assert engine.draft_statistics.accepted


def test_auto_asks_the_block_where_a_match_is_not_sure(path):
    model = Model.open(path)
    drafter = driver.drafter_of("auto", model, 32)
    assert type(drafter) is AutoMtp
    try:
        drafter.begin([1, 2, 3, 4, 5, 1, 2, 3, 4])
        assert [guess.token for guess in drafter.propose(2)] == [5, 1]
        drafter.begin([1, 2, 3, 4])
        drafter.read(0, np.ones((3, model.config.width), np.float32))
        assert drafter.propose(2)
    finally:
        drafter.close()
    assert (
        drafters.draft_outputs("auto", model) == drafters.draft_outputs("mtp", model) == (HIDDEN,)
    )
    assert drafters.drafter_name("auto", lambda: model) == "auto with mtp"


def test_who_cannot_have_it_is_told_so(path, tiny_model, engine):
    with pytest.raises(FusecError, match=r"draft mtp: the file has no block that drafts tokens"):
        fusec.load(tiny_model, draft="mtp")
    with pytest.raises(FusecError, match=r"draft mtp: a compiled folder does not give out"):
        driver.drafter_of("mtp", Model.open(path), 32, hidden=False)
    assert drafters.draft_outputs("auto", Model.open(tiny_model)) == ()
    with (
        fusec.load(tiny_model) as other,
        pytest.raises(FusecError, match=r"MtpDrafter reads hidden states, which this engine"),
    ):
        other.drafter = MtpDrafter(engine.drafter._engine)
