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
from tests.runtime.skilled import check_fewer_steps, check_going_on, skilled_model

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
    assert len(wanted) == COUNT
    for _ in range(2):
        check_fewer_steps(engine, IDS, wanted, sampling)
    check_going_on(engine, IDS, wanted, sampling, last=5)
    text = [*IDS, *wanted]
    states = drafter._states[: len(text) - 1].copy()
    assert np.array_equal(engine.trace(text[:-1])[HIDDEN], states)
