"""A draft model beside a GPU's loop, over a driver without a GPU: as the host would guess."""

from __future__ import annotations

import pytest

from fusec.runtime.drafting import chain
from fusec.runtime.drafting.model import ModelDrafter
from tests.runtime.cuda.machine import Machine, compiled_for_a_gpu
from tests.runtime.drafters import draft_with

IDS = [5, 6, 7, 5, 6, 7, 5, 6]
pytestmark = pytest.mark.xdist_group("drafted")


@pytest.fixture(scope="module")
def machines(tiny_model):
    return [Machine(compiled_for_a_gpu(tiny_model)) for _ in range(2)]


class OnTheHost:
    """An engine without its own way to make guesses."""

    def __init__(self, engine):
        self.decode, self.absorb, self.context = engine.decode, engine.absorb, engine.context
        self.chain = None


def test_the_device_guesses_what_the_host_would(machines, monkeypatch):
    monkeypatch.setattr(chain, "LEAST", 0.0)
    engine = machines[1].built
    drafter = ModelDrafter(engine)
    wanted = ModelDrafter(OnTheHost(machines[0].built))
    for each in (drafter, wanted):
        each.begin(IDS)
    for new, most in ([], 1), ([9], 4), ([3, 4], 6), ([], 2):
        for each in (drafter, wanted):
            each.seen(new, ())
        found, other = drafter.propose(most), wanted.propose(most)
        assert [guess.token for guess in found] == [guess.token for guess in other]
        near = [guess.confidence for guess in other]
        assert [guess.confidence for guess in found] == pytest.approx(near, rel=1e-3)
        right = [guess.token for guess in found[:2]]  # it goes on with some of them
        for each in (drafter, wanted):
            each.seen(right, ())


def test_a_chain_ends_early_and_another_begins(machines, monkeypatch):
    drafter = ModelDrafter(machines[1].built)
    drafter.begin(IDS)
    first = drafter.propose(5)
    assert 1 <= len(first) < 5  # what a random model says is hardly likely
    assert drafter.propose(5) == first
    monkeypatch.setattr(chain, "LEAST", 0.0)
    assert drafter.propose(5)[: len(first)] == first


def test_the_text_is_the_same_in_fewer_steps(machines):
    main, other = (machine.built for machine in machines)
    main.stop, main.drafter, main.draft_max = frozenset(), None, 15
    wanted = list(main.tokens(IDS, 30))
    draft_with(main, ModelDrafter(other))
    assert list(main.tokens(IDS, 30)) == wanted
    found = main.draft_statistics
    assert found.accepted == found.drafted > 8  # it is the model itself
    main.drafter = None
