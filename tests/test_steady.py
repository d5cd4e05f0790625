"""Times on a machine that something else uses: measured again, or refused, and never negative."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import pytest
from rich.console import Console

from fusec import driver, walls
from fusec.bench import profile, steady, tune_gpu
from fusec.bench.experiment import KernelTime, Measured
from fusec.bench.instruments import INSTRUMENTS
from fusec.bench.profile import ATTEMPTS
from fusec.bench.steady import TRIES, difference
from fusec.bench.stopwatch import Stopwatch
from fusec.errors import FusecError
from tests.command import refused
from tests.pictures.conftest import profile_of


@pytest.mark.parametrize(
    ("times", "wanted", "asked"),
    [
        ([(5.0, 3.0)], 2.0, 1),
        ([(3.0, 5.0), (3.0, 4.0), (5.0, 3.0)], 2.0, 3),  # what was disturbed is measured again
        ([(2.99, 3.0)] * TRIES, 0.0, TRIES),  # as good as equal
    ],
)
def test_differences(times: list[tuple[float, float]], wanted: float, asked: int) -> None:
    left = iter(times)
    assert difference(lambda: next(left), "a") == wanted
    assert len(list(left)) == len(times) - asked


def test_differences_that_stay_negative_are_refused_by_name() -> None:
    message = r"a beside b: measured 3\.00 us, and 4\.00 us with less to do, 5 times: .*machine"
    with pytest.raises(FusecError, match=message):
        difference(lambda: (3.0, 4.0), "a beside b")
    with pytest.raises(FusecError, match="c: measured"):
        difference(lambda: (4.0, 4.0), "c", noise=0.0)  # nothing can be divided by it


def test_a_slope_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch.__new__(Stopwatch)
    disturbed = iter([50.0])
    found = watch.slope(lambda count: 2.0 * count + (next(disturbed, 0) if count < 9 else 0), 4, 10)
    assert found == 2.0
    left = iter([9.0, 1.0] * TRIES)
    monkeypatch.setattr(watch, "graph", lambda _: next(left), raising=False)
    with pytest.raises(FusecError, match="240 of what is measured beside 40"):
        watch.node(lambda _: None)


# --- profile -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tiny_model):
    return driver.compile(tiny_model).plan


def sound(plan) -> Measured:
    kernels = {kernel.name: KernelTime(1, 4.0, 1.0) for kernel in plan.kernels}
    launch = [5.0 for _ in plan.launches]
    return Measured(60.0, 55.0, 2.0, 9.0, 55.0, 50.0, launch, kernels)


def spoilt(plan) -> list[tuple[Measured, str]]:
    """Measurements that contradict themselves, and how."""
    found, name = sound(plan), plan.kernels[0].name
    quick = [0.0 if x.kernel == name else 5.0 for x in plan.launches]
    naive = {"eager": 90.0, "eager, host sampling": 120.0}
    return [
        (replace(found, kernels=found.kernels | {name: KernelTime(1, 1.0, 4.0)}),
         f"{name} behind itself took 1.00 us, an empty kernel 4.00 us"),
        (replace(found, launch=quick), f"{name} in a token took 0.00 us, behind itself 4.00 us"),
        (replace(found, resident=80.0),
         "a token took 55.00 us, one whose layers share their memory 80.00 us"),
        (replace(found, naive=naive | {"eager": 40.0}),
         "a token launched one by one took 40.00 us, a captured one 60.00 us"),
        (replace(found, naive=naive | {"eager": 150.0}),
         "a token sampled on the host took 120.00 us, one sampled on the device 150.00 us"),
    ]  # fmt: skip


def test_what_is_sound_and_what_is_not(plan) -> None:
    assert list(profile.contradictions(plan, sound(plan))) == []
    for found, why in spoilt(plan):
        assert list(profile.contradictions(plan, found)) == [why]


def test_a_little_noise_is_no_contradiction_and_is_not_shown(plan) -> None:
    found = sound(plan)
    kernels = {name: KernelTime(1, 1.0, 1.3) for name in found.kernels}
    found = replace(found, kernels=kernels, launch=[0.7 for _ in plan.launches], resident=55.5)
    found = replace(found, naive={"eager": 59.0, "eager, host sampling": 58.9})
    assert list(profile.contradictions(plan, found)) == []
    assert min(found.walls.values()) >= 0
    assert found.naive_walls["launches"] == found.empties
    assert found.naive_walls["between tokens"] == found.between


def test_kernels_that_overlap_may_take_less_than_alone(tiny_model) -> None:
    overlapping = driver.compile(tiny_model, target="sm_90a", level=3).plan
    assert overlapping.overlaps
    found = replace(sound(overlapping), launch=[0.1 for _ in overlapping.launches])
    assert list(profile.contradictions(overlapping, found)) == []


def test_profile_measures_again_until_it_is_sound(plan) -> None:
    given = [spoilt(plan)[0][0], spoilt(plan)[1][0], sound(plan), spoilt(plan)[2][0]]
    closed: list[bool] = []

    def attempts() -> Iterator[Measured]:
        try:
            yield from given
        finally:
            closed.append(True)

    assert profile.first_sound(plan, attempts()) == sound(plan)
    assert closed == [True]


def test_profile_refuses_what_is_never_sound(plan) -> None:
    found, why = spoilt(plan)[0]
    with pytest.raises(FusecError, match=f"profile: {re.escape(why)}, measured {ATTEMPTS} times"):
        profile.first_sound(plan, (found for _ in range(100)))


def test_the_command_leaves_nothing_where_it_refuses(tiny_model, tmp_path, monkeypatch) -> None:
    found = spoilt(driver.compile(tiny_model, context=64).plan)[0][0]
    never = replace(INSTRUMENTS["cpu"], experiments=lambda *_: (found for _ in range(100)))
    monkeypatch.setitem(INSTRUMENTS, "cpu", never)
    old = tmp_path / "old.json"
    old.write_text("kept")
    for file in (old, tmp_path / "new.json"):
        assert steady.ADVICE in refused("profile", tiny_model, "--context", 64, "-o", file)
    assert old.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [old]


def test_the_table_of_a_cpu_has_no_negative_times(plan, tiny_model) -> None:
    compiled = driver.compile(tiny_model)
    names = [kernel.name for kernel in compiled.plan.kernels]
    kernels = {name: {"launches": 1, "alone": 1.5, "empty": 1.6} for name in names}
    data = profile_of(compiled, gpu=None, threads=2, kernels=kernels, naive_walls={})
    console = Console(width=200, record=True)
    for table in walls.tables(data):
        console.print(table)
    assert not re.search(r" -[\d.]", console.export_text())


# --- tune ----------------------------------------------------------------------------------------


def test_a_kernels_share_is_measured_again_or_nothing(plan, monkeypatch) -> None:
    bench = tune_gpu.StepBench.__new__(tune_gpu.StepBench)
    bench.plan, bench.workspace = plan, mock.Mock()
    name = plan.kernels[-1].name
    monkeypatch.setattr(bench, "_load", lambda _: None, raising=False)
    monkeypatch.setattr(bench, "_capture", lambda p: len(p.launches), raising=False)
    whole, repeats = len(plan.launches), tune_gpu.SHARE_REPEATS
    spoiling = iter([30.0] * repeats)

    def time(graph: int) -> float:
        return 100.0 if graph == whole else 90.0 + next(spoiling, 0.0)

    monkeypatch.setattr(bench, "_time", time, raising=False)
    assert bench.share(name, {}) == 10.0
    spoiling = iter([30.0] * 1000)
    assert bench.share(name, {}) == 0.0
