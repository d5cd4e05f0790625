"""The search over choices, on made-up machines: it finds what is best and nothing that is not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fusec.bench.search import TURNS, Choices, Found, Subject, gain, search, turns
from fusec.ir.choice import RELEASES, Choice

WARPS = (8, 4, 6, 12, 16)
BASE = 200.0


def subject(name: str, share: float, releases: tuple[str, ...] = RELEASES) -> Subject:
    return Subject(name, 30, share, tuple(Choice(w) for w in WARPS), releases)


SUBJECTS = (subject("small", 5.0), subject("large", 90.0))


class Machine:
    """Times of tokens by a cost of each kernel's choice, with noise, and a clock that drifts."""

    def __init__(self, cost: Callable[[str, Choice], float], noise=0.0, drift=0.0, seed=0):
        self.cost, self.noise, self.drift = cost, noise, drift
        self.random, self.runs, self.asked = random.Random(seed), 0, []

    def measure(self, choices: Choices) -> float:
        self.runs += 1
        self.asked.append(dict(choices))
        us = BASE + sum(self.cost(name, choice) for name, choice in choices.items())
        return us + self.random.gauss(0, self.noise) + self.drift * self.runs

    def search(self, seconds=1e9, check=lambda _: None, subjects=SUBJECTS) -> Found:
        return search(subjects, self.measure, check, seconds, clock=lambda: float(self.runs))


def best_is(wanted: dict[str, Choice], each: float = 3.0) -> Callable[[str, Choice], float]:
    """Costs less for every field that is as wanted."""

    def cost(name: str, choice: Choice) -> float:
        good = (choice.warps == wanted[name].warps) + (choice.release == wanted[name].release)
        return each * (2 - good)

    return cost


WANTED = {"small": Choice(4, release="barrier"), "large": Choice(12, release="load")}


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("drift", [0.0, 0.05, -0.05])
def test_the_best_choices_are_found_in_noise_and_drift(noise: float, drift: float) -> None:
    found = Machine(best_is(WANTED), noise, drift).search()
    assert found.choices == WANTED
    for name in WANTED:
        assert found.gains[name] == pytest.approx(6.0, abs=4 * noise + 1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_drift_alone_win_nothing(seed: int) -> None:
    machine = Machine(lambda *_: 0.0, noise=0.5, drift=0.02, seed=seed)
    found = machine.search()
    assert found.choices == {s.name: s.default for s in SUBJECTS}
    assert found.gains == {}
    assert set(found.tried.values()) == {len(WARPS) - 1 + len(RELEASES) - 1}


def test_what_is_faster_by_next_to_nothing_is_left_alone() -> None:
    found = Machine(best_is(WANTED, each=0.02)).search()
    assert found.choices == {s.name: s.default for s in SUBJECTS}


def test_a_choice_that_pays_only_beside_another_is_found_in_the_second_pass() -> None:
    """The large kernel goes first, when nothing beside it has changed yet."""

    def measure(choices: Choices) -> float:
        small = choices["small"].warps == 4
        return BASE - 3 * small - 3 * (small and choices["large"].release == "load")

    found = search(SUBJECTS, measure, lambda _: None, 1e9)
    assert found.choices == {"small": Choice(4), "large": Choice(8, release="load")}


def test_releases_that_pay_only_together_are_found() -> None:
    """Each of them alone makes a step longer."""
    subjects = (subject("one", 90.0), subject("other", 60.0), subject("small", 5.0))

    def measure(choices: Choices) -> float:
        moved = [choices[name].release == "end" for name in ("one", "other")]
        return BASE - 8 * all(moved) + 3 * (sum(moved) == 1)

    found = search(subjects, measure, lambda _: None, 1e9)
    end = Choice(8, release="end")
    assert found.choices == {"one": end, "other": end, "small": Choice(8)}
    assert found.gains == {"one": 4.0, "other": 4.0}


def test_what_cannot_be_made_is_not_measured_and_a_search_goes_on_without_second_looks() -> None:
    machine = Machine(best_is(WANTED))

    def usable(options):
        return [o for o in options if "large" not in o or o["large"].warps != 12]

    found = search(SUBJECTS, machine.measure, lambda _: None, 1e9, usable=usable)
    assert found.choices["small"] == WANTED["small"]
    assert found.choices["large"] == Choice(8, release="load")
    runs = machine.runs
    again = search(SUBJECTS, machine.measure, lambda _: None, 1e9, usable=usable, before=found)
    assert (again.choices, again.tried) == (found.choices, found.tried)
    assert machine.runs == runs + 1  # of the whole


def test_the_largest_share_goes_first_and_time_ends_the_search() -> None:
    machine = Machine(best_is(WANTED))
    found = machine.search(seconds=100)
    assert machine.runs < 100 + 4 * TURNS
    assert found.choices == {"small": Choice(8), "large": Choice(12)}
    assert list(found.tried) == ["large"]
    assert Machine(best_is(WANTED)).search(seconds=0).tried == {}


def test_a_kernel_without_releases_keeps_its_own() -> None:
    alone = subject("alone", 9.0, RELEASES[:1])
    machine = Machine(lambda _, choice: 0.0 if choice.release == "load" else 5.0)
    found = machine.search(subjects=(alone,))
    assert found.choices == {"alone": Choice(8)}
    assert {c["alone"].release for c in machine.asked} == {"wait"}


def test_no_winner_is_kept_unchecked() -> None:
    seen = []

    def check(choices: Choices) -> None:
        seen.append(dict(choices))
        if choices["large"].warps == 12:
            raise ArithmeticError("other bytes")

    with pytest.raises(ArithmeticError):
        Machine(best_is(WANTED)).search(check=check)
    assert seen == [{"small": Choice(8), "large": Choice(12)}]


def test_turns_cancel_a_linear_drift() -> None:
    machine = Machine(lambda _, choice: float(choice.warps), drift=7.0)
    one, other = {"k": Choice(8)}, {"k": Choice(6)}
    assert [a - b for a, b in turns(machine.measure, one, other, 3)] == pytest.approx([2.0] * 3)


def test_a_gain_wins_all_turns_but_one() -> None:
    steady = [(100.0 + k, 99.0 + k) for k in range(14)]
    assert gain(steady) == pytest.approx(1.0)
    assert gain([(b, a) for a, b in steady]) == 0.0
    spoilt = [(100.0, 150.0)]
    assert gain(spoilt + steady[1:]) == pytest.approx(1.0)
    assert gain(2 * spoilt + steady[2:]) == 0.0
    never = iter(2 * spoilt + steady)
    assert gain(never) == 0.0
    assert next(never) == steady[0]  # what can only lose is not measured any longer
