"""Launches that may start early carry the driver's attribute, whichever way they are launched."""

import numpy as np
import pytest

from fusec import driver
from fusec.ir.choosing import without_choice
from fusec.runtime.cuda.pace import GraphCost, Pace
from fusec.runtime.drafting import Suffix
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda.machine import CONTEXT, Machine
from tests.runtime.drafters import FREE

pytestmark = pytest.mark.slow  # compiles for a fake driver

EARLY = "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION"
WINDOW = "CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW"
SAMPLED = Sampling(temperature=0.8, seed=4)


@pytest.fixture(scope="module")
def compiled(tiny_model):
    """At -O3, whose kernels the fake driver computes by the reference operations."""
    return driver.compile(tiny_model, target="sm_90a", level=3, context=CONTEXT)


def attributes(launch):
    return [attribute.id for attribute in getattr(launch.config, "attrs", ())]


def launched(compiled, sampling=Sampling(), **options):  # noqa: B008
    """Names of the launches that feed a prompt token and make a token, with their attributes."""
    machine = Machine(compiled, **options)
    made = machine.run([5, 6], 1, sampling)
    assert len(made) == 1
    return [(launch.name, attributes(launch)) for launch in machine.api.launched]


def expected(plans, controls):
    """Of each plan's launches and the control kernels behind it, which are early."""
    return [
        early
        for plan, names in zip(plans, controls, strict=True)
        for early in (*(launch.early for launch in plan.launches), *(True for _ in names))
    ]


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_all_but_the_first_launch_of_a_token_start_early(compiled, sampling):
    found = launched(compiled, sampling, l2="off")
    plan = compiled.plan
    last, control = without_choice(plan), ["advance_best"]
    if sampling is SAMPLED:
        last, control = plan.only({"%logits"}), ["sample", "advance"]
    prompt = plan.only(set())
    wanted = expected((prompt, last), ([], control))
    assert [EARLY in ids for _, ids in found] == wanted
    firsts = [i for i, (_, ids) in enumerate(found) if EARLY not in ids]
    assert firsts == [0, len(prompt.launches)]
    assert all(ids in ([], [EARLY]) for _, ids in found)


@pytest.mark.parametrize("eager", [False, True])
def test_one_launch_chooses_a_greedy_token_and_hands_it_on(compiled, eager):
    plan = compiled.plan
    names = [name for name, _ in launched(compiled, eager=eager, l2="off")]
    token = names[len(plan.only(set()).launches) :]
    assert token == [*(launch.kernel for launch in plan.launches[:-1]), "advance_best"]
    assert plan.launches[-1].kernel.startswith("argmax_combine")


def test_a_sampled_token_and_a_step_launch_what_they_did(compiled):
    plan = compiled.plan
    names = [name for name, _ in launched(compiled, SAMPLED, l2="off")]
    token = names[len(plan.only(set()).launches) :]
    assert token == [*(x.kernel for x in plan.launches[:-1]), "sample", "advance"]
    machine = Machine(compiled, l2="off")
    found = machine.decode.step(token=np.array([5], np.int32), pos=np.zeros(1, np.int32))
    assert found["next"] == found["logits"].argmax()
    assert [x.name for x in machine.api.launched] == [x.kernel for x in plan.launches]


def test_the_choice_is_where_the_plan_says(compiled):
    """In the memory of %next, which others may read."""
    machine = Machine(compiled)
    made = machine.run([5, 6], 7)
    plan = compiled.plan
    assert machine.workspace.read(plan.output_args["%next"], plan.outputs["%next"]) == made[-1]


def test_eager_launches_carry_what_captured_ones_do(compiled):
    assert launched(compiled, eager=True, l2="off") == launched(compiled, l2="off")


def test_the_attribute_comes_beside_the_window(compiled):
    for name, ids in launched(compiled, l2="window"):
        assert ids[0] == WINDOW, name
    assert [WINDOW, EARLY] in [ids for _, ids in launched(compiled, l2="window")]


def test_the_attribute_says_yes(compiled):
    machine = Machine(compiled, l2="off")
    machine.run([5], 1)
    given = [a for x in machine.api.launched for a in getattr(x.config, "attrs", ())]
    assert given
    assert {a.value.programmaticStreamSerializationAllowed for a in given} == {1}


@pytest.mark.parametrize(("target", "level"), [("sm_90a", 2), ("sm_80", 3)])
def test_plans_that_do_not_overlap_have_no_early_launch(tiny_model, target, level):
    compiled = driver.compile(tiny_model, target=target, level=level, context=CONTEXT)
    assert not any(EARLY in ids for _, ids in launched(compiled, l2="off"))


def test_the_tokens_are_those_of_level_2(compiled, tiny_model):
    plain = driver.compile(tiny_model, target="sm_90a", level=2, context=CONTEXT)
    wanted = Machine(plain).run([7, 8, 9], 12)
    assert Machine(compiled).run([7, 8, 9], 12) == wanted


def test_a_drafted_step_waits_for_its_guesses_before_anything_reads_them(compiled):
    """Rows and positions are read in front of a dependent launch's wait: the plan's first is none.

    So nothing of the plan runs before `draft` has ended.
    """
    machine = Machine(compiled, l2="off")
    engine = machine.built
    ids = [*range(CONTEXT // 2), *range(CONTEXT // 4)]  # most tokens that come were there before
    wanted = list(engine.tokens(ids, 12))
    engine.drafter, engine.draft_max = Suffix(), 1
    engine._pace = Pace(1, recycle=False, cost=GraphCost(FREE))
    engine._paced = engine._drafting, 1
    machine.api.launched.clear()
    assert list(engine.tokens(ids, 12)) == wanted
    names = [launch.name for launch in machine.api.launched]
    early = [EARLY in attributes(launch) for launch in machine.api.launched]
    start, end = names.index("draft"), names.index("accept")
    rows = engine.drafted._sessions[0]
    step = rows._plans[rows._variant(2)]
    assert names[start + 1 : end] == [launch.kernel for launch in step.launches]
    assert not early[start] and not early[start + 1]
    assert all(early[start + 2 : end + 1])
