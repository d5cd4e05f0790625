"""The block that drafts beside a GPU's loop, over a driver without a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from fusec import Sampling, driver
from fusec.ir.plan import HIDDEN
from fusec.models.model import Model
from fusec.runtime.drafting.mtp import MtpDrafter
from tests.runtime.cuda.machine import CONTEXT, Machine
from tests.runtime.drafters import draft_with
from tests.runtime.skilled import skilled_model

IDS = [5, 6, 7, 5, 6, 7, 8]
COUNT = 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    model = Model.open(skilled_model(tmp_path_factory.mktemp("mtp")))
    main, block = (
        Machine(
            driver.compile(each, target="sm_90a", level=2, context=CONTEXT, outputs=(HIDDEN,))
        ).built
        for each in (model, model.drafting())
    )
    main.stop = frozenset()
    main.drafter = MtpDrafter(block)
    return main


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, seed=4)], ids=["greedy", "sampled"])
def test_the_text_is_the_same_in_fewer_steps(engine, sampling):
    drafter, engine.drafter = engine.drafter, None
    wanted = list(engine.tokens(IDS, COUNT, sampling))
    draft_with(engine, drafter)
    for _ in range(2):
        assert list(engine.tokens(IDS, COUNT, sampling)) == wanted
        found = engine.draft_statistics
        assert found.drafted and found.tokens == COUNT == found.steps + found.accepted
    if sampling.is_argmax:
        assert found.acceptance == 1 and found.steps < COUNT / 3
    assert list(engine.tokens(IDS, COUNT - 5, sampling)) == wanted[:-5]
    assert list(engine.tokens([], 5, sampling, append=True)) == wanted[-5:]
    text = [*IDS, *wanted]
    states = drafter._states[: len(text) - 1].copy()
    assert np.array_equal(engine.trace(text[:-1])[HIDDEN], states)
