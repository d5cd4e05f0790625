"""How many guesses are checked: by what they give and what steps cost, as measured."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from fusec.runtime.drafting import Drafter, Drafting, Guess
from fusec.runtime.drafting.depth import FRESH, LONGEST_REST, Acceptance, Cost, Depth

GUESSES = [Guess(1, 0.9)] * 8


def measured(times: dict[int, float]) -> Cost:
    cost = Cost()
    for rows, seconds in times.items():
        for _ in range(3):
            cost.measured(rows, seconds)
    return cost


def test_a_width_that_was_not_measured_lies_between_those_that_were() -> None:
    cost = measured({1: 0.01, 3: 0.02, 5: 0.06})
    assert cost.known == pytest.approx({1: 1, 3: 2, 5: 6})
    assert [cost.of(n) for n in (1, 2, 3, 4, 5)] == pytest.approx([1, 1.5, 2, 4, 6])
    assert cost.of(7) == pytest.approx(6 + 2 * Cost.a_row)
    assert Cost().of(3) == pytest.approx(1 + 2 * Cost.a_row)


def test_the_first_time_of_a_width_and_outliers_do_not_count() -> None:
    cost = Cost()
    for seconds in (9, 1, 1, 5, 1):
        cost.measured(1, seconds)
    assert cost.one == 1
    assert cost.known == {1: 1}
    cost.measured(2, 50)
    assert cost.of(2) == pytest.approx(1 + Cost.a_row)


def test_what_was_slow_once_is_tried_again() -> None:
    cost = measured({1: 1, 2: 10})
    assert cost.of(2) == pytest.approx(10)
    for _ in range(3 * FRESH):
        cost.measured(1, 1)
    assert cost.of(2) == pytest.approx(1 + Cost.a_row)


def test_the_depth_is_where_most_tokens_come_for_the_time() -> None:
    assert Depth(Cost([1] * 9)).worth(GUESSES, 0) == 8
    assert Depth(Cost([1, 1, 1, 9])).worth(GUESSES, 0) == 2
    assert Depth(Cost([1, 9, 9, 1, 9])).worth(GUESSES, 0) == 3  # a width may be cheaper than less
    assert Depth(Cost([1, 2, 3, 4, 5, 6, 7, 8, 9])).worth(GUESSES, 0) == 0
    assert Depth(Cost([1] * 9)).worth([Guess(1, 0.01)], 0) == 0
    assert Depth(Cost([1] * 9)).worth([], 0) == 0
    assert Depth().worth(GUESSES, 0) == 0  # nothing was measured
    assert Depth(measured({1: 1.0})).worth(GUESSES, 0) > 0


def test_acceptance_follows_what_is_measured() -> None:
    found = Acceptance()
    for odd in (-1.0, 2.0, float("nan")):  # of a careless drafter
        found.learn(odd, False)
    found = Acceptance()
    assert found.of(0.75) == pytest.approx(0.75)
    for _ in range(40):
        found.learn(0.75, False)
    assert found.of(0.75) < 0.15
    assert found.of(0.25) == pytest.approx(0.25)  # of another confidence nothing is known
    for _ in range(100):
        found.learn(0.75, True)
    assert found.of(0.75) > 0.8


class Fixed(Drafter):
    """The same guesses each time; `asked` counts."""

    def __init__(self, guesses: Sequence[Guess]) -> None:
        self.given, self.asked = guesses, 0

    def begin(self, sequence: Sequence[int]) -> None:
        pass

    def propose(self, most: int) -> Sequence[Guess]:
        self.asked += 1
        return self.given


def run(drafting: Drafting, tokens: int, right: int, seconds: float = 1.0) -> list[int]:
    """Generate; of each step's guesses the first `right` ones are. How many each step checked."""
    checked, made = [], 0
    drafting.begin([1])
    while made < tokens:
        guesses = drafting.guesses(15)
        checked.append(len(guesses))
        drafting.stepped([1, *guesses], [0] * (1 + len(guesses)), seconds)
        for n in range(len(guesses) + 1):
            made += 1
            if not drafting.takes(guesses[n] if n < min(right, len(guesses)) else 99):
                break
    return checked


def test_where_nothing_is_accepted_nothing_is_checked_any_more() -> None:
    drafting = Drafting(Fixed(GUESSES), 8, Depth(Cost([1 + 0.3 * n for n in range(16)])))
    checked = run(drafting, 500, right=0)
    assert sum(n > 0 for n in checked) < 12 and not any(checked[20:])
    assert sum(0.3 * n for n in checked) < 0.03 * 500  # steps, of what plain decoding takes


def test_a_guess_that_is_not_checked_is_learnt_from() -> None:
    """So that nothing has to be risked to see that a text has become predictable."""
    drafting = Drafting(Fixed([Guess(1, 0.1)] * 4), 8, Depth(Cost([1 + 0.3 * n for n in range(9)])))
    assert not any(run(drafting, 20, right=0))
    drafting.begin([1])
    for _ in range(40):
        if drafting.guesses(8):
            break
        drafting.stepped([1], [1], 1.0)
        drafting.takes(1)
    else:
        pytest.fail("never drafted")


def test_whoever_asks_for_much_time_and_gives_nothing_rests() -> None:
    drafter = Fixed([Guess(1, 0.01)])
    drafting = Drafting(drafter, 8)
    run(drafting, 1000, right=0, seconds=1e-6)  # less than asking takes
    assert drafter.asked < 100
    assert drafting.depth._rest == LONGEST_REST
    quick = Fixed([Guess(1, 0.01)])
    run(Drafting(quick, 8), 1000, right=0, seconds=1.0)
    assert quick.asked == 1000


class Slow(Drafter):
    """Each of its guesses takes as long as a step."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def begin(self, sequence: Sequence[int]) -> None:
        pass

    def propose(self, most: int) -> Sequence[Guess]:
        self.asked.append(most)
        time.sleep(0.001 * most)
        return [Guess(1, 0.9)] * most


def test_few_guesses_are_asked_of_one_whose_guesses_take_long() -> None:
    """A draft model as slow as the model itself, and always right, is soon left alone."""
    slow = Slow()
    run(Drafting(slow, 15), 300, right=15, seconds=0.001)
    assert sum(slow.asked) < 100
    assert slow.asked[:2] == [1, 1]
    quick = Slow()  # beside this model
    run(Drafting(quick, 15), 300, right=15, seconds=0.05)
    assert max(quick.asked) == 15


def test_no_more_guesses_than_there_is_room_for() -> None:
    drafting = Drafting(Fixed(GUESSES), 5, Depth(Cost([1] * 16)))
    drafting.begin([1])
    for room, wanted in ((3, 3), (15, 5), (0, 0)):
        assert len(drafting.guesses(room)) == wanted
