"""Which graph comes next, by the tokens that have come and what steps cost."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from fusec.codegen.cuda.drafting import MOST_CHAINED
from fusec.runtime.cuda.pace import LOOK, RUN, GraphCost, Pace, width_of
from fusec.runtime.cuda.told import Told

H200 = [1, 1.37, 1.78, 2.2, *[3.6] * 4, *[4.0] * 8]
"""Steps by their rows, in steps of one row: about as an H200 takes for them."""

PERIOD = [3, 1, 4, 1, 5, 9, 2, 6]


def pace_of(**sources: bool) -> Pace:
    return Pace(15, cost=GraphCost(H200), **sources)


def go_on(pace: Pace, tokens: Sequence[int], plain: bool = False) -> None:
    pace.seen(tokens)
    pace.learn(plain)


def novel(count: int, seed: int = 4) -> list[int]:
    """Tokens that say nothing of the next."""
    return random.Random(seed).choices(range(1000), k=count)


def one_by_one(pace: Pace, tokens: Sequence[int]) -> list[int]:
    """Widths that were asked for with nothing ahead, in front of each token."""
    widths = []
    for token in tokens:
        widths.append(pace.width())
        go_on(pace, [token], plain=not widths[-1])
    return widths


def test_an_entry_of_the_log() -> None:
    assert Told.read(4 | 7 << 5) == Told(4, 7)


def test_a_text_that_repeats_itself_gets_wide_graphs() -> None:
    pace = pace_of()
    pace.begin(PERIOD * 4)
    assert pace.width() == 16
    go_on(pace, (PERIOD * 2)[:16])
    assert pace.width() == 16
    go_on(pace, [*PERIOD[:5], 77])
    assert pace.width() == 0


def test_longer_matches_are_worth_more_guesses() -> None:
    widths = []
    for length in range(1, 9):
        pace = pace_of(recycle=False)
        copied = list(range(10, 40))
        pace.begin([*copied, 99, *copied[:length]])
        widths.append(pace.width())
    assert widths == sorted(widths)
    assert widths[0] == 0 and widths[-1] == 16


def test_a_text_that_does_not_repeat_itself_gets_plain_graphs() -> None:
    pace = pace_of()
    pace.begin([1, 2, 3])
    assert not any(one_by_one(pace, novel(300)))


def test_what_is_not_right_is_soon_left_alone_and_tried_again_once_it_would_be() -> None:
    pace = pace_of(recycle=False)
    pace.begin(PERIOD * 4)
    asked = 0
    for n in range(60):  # behind the same eight tokens there is always something new
        asked += bool(pace.width())
        go_on(pace, [1000 + n, *PERIOD], plain=True)
    assert asked < 30 and not pace.width()
    assert set(one_by_one(pace, PERIOD * 12)[-len(PERIOD) :]) == {16}


def test_plain_graphs_run_ahead_until_a_match_begins() -> None:
    pace = pace_of()
    pace.begin([1, 2, 3])
    assert [pace.width([0] * n) for n in range(3)] == [0, 0, 0]
    pace.begin(PERIOD * 4)
    assert pace.width([0]) is None  # it is not to be missed
    assert pace.width() == 16


def test_the_next_wide_graph_waits_unless_all_guesses_are_nearly_certain() -> None:
    pace = pace_of()
    pace.begin(PERIOD * 4)
    assert pace.width([16]) is None
    sure = Pace(15, cost=GraphCost([1, 1.1, 1.15, *[1.2] * 13]))
    sure.begin(PERIOD * 4)
    for _ in range(40):
        go_on(sure, PERIOD * 2)
    assert sure.width([16]) == 16


def test_what_comes_behind_right_guesses_is_known_while_they_are_checked() -> None:
    pace = pace_of(recycle=False)
    pace.begin(PERIOD * 4)
    assert pace.width([16]) is None
    known = dict(pace._worths)
    pace.seen((PERIOD * 2)[:16])
    assert pace.width() == 16
    assert pace._worths == known  # nothing had to be worked out


def test_only_pairs_that_the_device_has_entered_are_counted_on() -> None:
    pace = pace_of(suffix=False)
    assert (pace.suffixes, pace.chained) == (0, MOST_CHAINED)
    pace.begin([1, 2])
    for _ in range(8):
        go_on(pace, PERIOD, plain=True)
    assert not pace._ground.chain
    for _ in range(8):
        go_on(pace, PERIOD)
    assert pace.width() == 4


def test_the_table_of_pairs_is_filled_by_graphs_of_one_row() -> None:
    pace = pace_of(suffix=False)
    pace.begin([1, 2])
    assert one_by_one(pace, novel(20)) == [1] * 20  # it may pay yet
    for n in range(60):  # behind two sevens there is always something new
        for token in (7, 7, 1000 + n):
            go_on(pace, [token])
    widths = one_by_one(pace, novel(10 * LOOK, seed=5))
    assert 8 <= sum(widths) <= 12
    assert max(widths) == 1


def test_what_graphs_cost_is_measured() -> None:
    pace = Pace(15)
    pace.begin(PERIOD * 9)
    assert pace.width() == 16  # until something is known

    def generation(wide: int, plain: int) -> None:
        now = 10**9
        for _ in range(12):
            pace.begin(PERIOD * 9)
            pace.ended(16, now)
            pace.ended(16, now := now + wide)
            for token in PERIOD[: RUN + 1]:
                go_on(pace, [token], plain=True)
            pace.ended(16, now := now + wide + plain * (RUN + 1))
            now += 10**9  # between two generations

    generation(900, 100)
    assert pace.cost.known == pytest.approx({1: 1, 16: 9})
    pace.begin(PERIOD * 9)
    assert pace.width() == 16
    generation(5000, 100)
    pace.begin(PERIOD * 9)
    assert pace.width() == 0


def test_a_graph_has_a_power_of_two_of_rows() -> None:
    assert [width_of(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 16)] == [1, 2, 4, 4, 8, 8, 16, 16]
    cost = GraphCost()
    for rows in (1, 2, 4, 8):
        for _ in range(2):
            cost.measured(rows, rows**2)
    assert [cost.of(rows) for rows in range(1, 9)] == [1, 4, 16, 16, 64, 64, 64, 64]
    assert GraphCost(H200).of(3) == 2.2
