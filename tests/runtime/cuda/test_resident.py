"""The token loop in one launch, over a driver without a GPU: tokens, growth, stops and refusals."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fusec import backends, driver
from fusec.errors import FusecError
from fusec.runtime.cuda import resident as resident_module
from fusec.runtime.job import Job
from fusec.runtime.sampling import Sampling
from tests.runtime.cuda.machine import NEVER, Machine

CONTEXT = 96
pytestmark = pytest.mark.slow  # makes many tokens over a fake driver

IDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def compiled(tiny_model):
    return driver.compile(tiny_model, target="sm_90a", level=3, context=CONTEXT)


@pytest.fixture(scope="module")
def resident(compiled):
    return backends.get("sm_90a").resident(compiled.plan.generating)


@pytest.fixture(scope="module")
def wanted(compiled):
    """What graphs make."""
    return Machine(compiled).run(IDS, 40)


@pytest.fixture
def machine(compiled, resident):
    return Machine(compiled, resident=resident)


def names(machine) -> list[str]:
    return [launch.name for launch in machine.api.launched]


def test_one_launch_makes_all_tokens_but_the_first(machine, wanted) -> None:
    """The host looks at the logits behind the prompt, so that token is a graph's."""
    assert machine.run(IDS, 40) == wanted
    assert machine.kernel.made == [39]
    (launch,) = (x for x in machine.api.launched if x.name.startswith("resident_"))
    assert [x.id for x in launch.config.attrs] == ["CU_LAUNCH_ATTRIBUTE_COOPERATIVE"]
    assert launch.config.gridDimX == 128 and launch.config.gridDimY == 1


def test_launches_follow_one_another(machine, wanted, monkeypatch) -> None:
    """Each has pages for its tokens; the next is enqueued when few are left to read."""
    monkeypatch.setattr(resident_module, "TOKENS", 16)
    monkeypatch.setattr(resident_module, "AHEAD", 4)
    assert machine.run(IDS, 40) == wanted
    assert machine.kernel.made == [16, 16, 7]
    assert machine.run(IDS, 40) == wanted


def test_a_generation_goes_on_behind_another(machine, wanted) -> None:
    engine = machine.engine()
    assert [*engine.tokens(IDS, 10)] == wanted[:10]
    assert [*engine.tokens([], 10, append=True)] == wanted[10:20]
    assert [*engine.tokens(IDS, 1)] == wanted[:1]


def test_who_stops_reading_stops_the_launch(machine, wanted) -> None:
    """By a stop token, or a caller who wants no more."""
    assert machine.run(IDS, 40, stop={wanted[7]}) == wanted[: wanted.index(wanted[7])]
    tokens = machine.loop.run(Job(tuple(IDS), 40, Sampling()), NEVER)
    assert [next(tokens), next(tokens)] == wanted[:2]
    assert not machine.loop._stops.tolist()[1]
    tokens.close()
    assert machine.loop._stops.tolist()[:2] == [1, 1]
    assert machine.run(IDS, 40) == wanted


def test_a_gpu_that_is_far_behind_its_host(compiled, resident, wanted, monkeypatch) -> None:
    """Launches that were stopped before they began, with others of the next generation behind."""
    monkeypatch.setattr(resident_module, "TOKENS", 8)
    monkeypatch.setattr(resident_module, "AHEAD", 6)
    machine = Machine(compiled, resident=resident, late=True)
    for count in (2, 3, 10):
        tokens = machine.loop.run(Job(tuple(IDS), 20, Sampling()), NEVER)
        assert [next(tokens) for _ in range(count)] == wanted[:count]
        if count != 3:  # a generation that somebody keeps is stopped by the next
            tokens.close()
        assert machine.run(IDS, 20) == wanted[:20]


def test_a_generation_that_ends_late_stops_no_other(machine, wanted) -> None:
    kept, other = (machine.loop.run(Job(tuple(IDS), 40, Sampling()), NEVER) for _ in range(2))
    assert [next(kept), next(kept), next(other), next(other)] == [*wanted[:2], *wanted[:2]]
    assert machine.loop._stops.tolist()[:2] == [1, 0]
    kept.close()
    assert machine.loop._stops.tolist()[:2] == [1, 0]
    other.close()


def test_a_launch_that_is_stopped_makes_one_token(machine, wanted) -> None:
    kernel = machine.kernel

    def stopped(*pointers) -> None:
        machine.loop._stops[:] = 1
        kernel(*pointers)

    machine.api.kernels[machine.loop._name] = stopped
    with pytest.raises(FusecError, match="finished its work without delivering a token"):
        machine.run(IDS, 40)
    assert kernel.made == [1]


def test_closing_an_engine_stops_it(machine) -> None:
    engine = machine.built
    tokens = engine.loop.run(Job(tuple(IDS), 40, Sampling()), NEVER)
    next(tokens)
    stops, words = engine.loop._stops, []
    machine.workspace.memory.driver.synchronize = lambda _: words.append(int(stops[0]))
    engine.close()
    assert words == [1]
    tokens.close()


def test_whoever_waits_too_long_is_named(machine) -> None:
    machine.kernel.hangs = True
    with pytest.raises(FusecError, match=r"resident_.* some two seconds and gave up"):
        machine.run(IDS, 40)


def test_a_logit_that_is_not_finite_ends_it(machine, wanted) -> None:
    token = machine.kernel._token

    def poisoned(table: int) -> None:
        token(table)
        if machine.kernel.made[-1] == 3:
            tops = machine.loop._bound[2]
            np.frombuffer((np.ctypeslib.ctypes.c_float * 1024).from_address(tops), np.float32)[
                :
            ] = np.nan

    machine.kernel._token = poisoned
    found = []
    with pytest.raises(FusecError, match="not finite"):
        found.extend(machine.loop.run(Job(tuple(IDS), 40, Sampling()), NEVER))


def test_sampling_is_refused(machine) -> None:
    with pytest.raises(FusecError, match="expected temperature 0"):
        machine.run(IDS, 4, Sampling(temperature=0.8))


def test_a_gpu_without_room_is_refused(compiled, resident) -> None:
    with pytest.raises(FusecError, match=r"expected room for 99 clusters .* found 16 on Fake GPU"):
        Machine(compiled, resident=replace(resident, least=99))


@pytest.mark.parametrize(
    ("level", "target", "reason"),
    [
        (2, "sm_90a", "as of -O3, found those of -O2"),
        (3, "sm_80", "expected a GPU with clusters, found sm_80"),
    ],
)
def test_plans_that_are_refused(tiny_model, level, target, reason) -> None:
    plan = driver.compile(tiny_model, target=target, level=level).plan
    with pytest.raises(FusecError, match=f"not resident: .*{reason}"):
        backends.get(target).resident(plan)


def test_bodies_that_need_more_registers_are_refused(resident, monkeypatch) -> None:
    backend = backends.get("sm_90a")
    cubin = SimpleNamespace(arch="sm_90a", data=b"", registers=128, spill_stores=200)
    monkeypatch.setattr(type(backend), "build", lambda *_: {resident.kernel.name: cubin})
    found = backend.beside(dict.fromkeys, resident, None)
    assert found(["advance"]) == {"advance": None}
    with pytest.raises(FusecError, match="512 threads a block have 128 registers each, and 200"):
        found(["advance", resident.kernel.name])
    cubin.spill_stores = 8
    assert found([resident.kernel.name])[resident.kernel.name].threads == 512


def test_no_gpu_and_drafts_are_refused(tiny_model) -> None:
    with pytest.raises(FusecError, match="expected a target such as sm_90a, found cpu"):
        driver.load(tiny_model, resident=True)
    with pytest.raises(FusecError, match=r"drafted tokens .*: expected one of the two"):
        driver.load(tiny_model, "sm_90a", resident=True, draft="suffix")
