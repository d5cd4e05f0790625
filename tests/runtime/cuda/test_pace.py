"""Which graph comes next, and how deep the device guesses, by what drafted steps say."""

from __future__ import annotations

import numpy as np
import pytest

from fusec.codegen.cuda.drafting import CLASSES, LONGEST, RECYCLED
from fusec.runtime.cuda.pace import LONGEST_WAIT, REVIEW, Pace
from fusec.runtime.cuda.told import Told
from fusec.runtime.drafting.depth import Cost

H200 = [1, 1.37, 1.78, 2.2, *[3.6] * 4, *[4.0] * 8]  # of a step of one row, from the README


def right(drafted: int, match: int = 20) -> Told:
    return Told(drafted + 1, drafted, match, recycled=False, suffix=True, pair=None)


def wrong(drafted: int, match: int = 20) -> Told:
    return Told(1, drafted, match, recycled=False, suffix=False, pair=None)


def test_an_entry_of_the_log() -> None:
    word = 4 | 7 << 5 | 31 << 10 | 1 << 15 | 1 << 16 | 3 << 18
    assert Told.read(word) == Told(4, 7, 31, True, False, True)
    assert Told.read(0) == Told(0, 0, 0, False, None, None)
    assert (Told.read(word).accepted, Told.read(0).accepted) == (3, 0)


def test_longer_matches_are_worth_more_guesses() -> None:
    depths = Pace(15, cost=Cost(H200)).depths
    assert depths.shape == (CLASSES,) and depths.dtype == np.uint32
    assert depths[0] == 0
    suffixes = depths[1 : LONGEST + 1].tolist()
    assert suffixes == sorted(suffixes)
    assert suffixes[-1] == 15
    assert not Pace(15, suffix=False, cost=Cost(H200)).depths[:RECYCLED].any()
    assert not Pace(15, recycle=False, cost=Cost(H200)).depths[RECYCLED]
    assert Pace(3, cost=Cost(H200)).depths.max() == 3


def test_a_text_that_repeats_itself_gets_wide_graphs_at_once() -> None:
    pace = Pace(15, cost=Cost(H200))
    pace.begin()
    assert pace.width() == 1  # to look for a match
    pace.learn(right(0))
    assert pace.width() == 16
    pace.learn(right(15))
    assert pace.width() == 16
    pace.learn(wrong(15))
    assert pace.width() < 2


def test_a_text_that_does_not_gets_plain_graphs() -> None:
    pace, widths = Pace(15, cost=Cost(H200)), []
    pace.begin()
    for _ in range(500):
        widths.append(pace.width())
        if widths[-1]:
            pace.learn(Told(1, 0, 1, recycled=False, suffix=False, pair=False))
    assert max(widths) == 1
    assert sum(widths) < 500 / LONGEST_WAIT + 8


def test_what_was_right_is_guessed_deeper_and_what_was_not_is_left() -> None:
    pace = Pace(15, cost=Cost(H200))
    changed = [pace.learn(wrong(15)) for _ in range(4 * REVIEW)]
    assert sum(changed) >= 1 and not any(changed[: REVIEW - 1])
    assert pace.depths[20] == 0
    for _ in range(8 * REVIEW):  # not checked, but looked at
        pace.learn(right(0))
    assert pace.depths[20] == 15


def test_pairs_are_learnt_beside_suffixes() -> None:
    pace = Pace(15, cost=Cost(H200))
    for _ in range(8 * REVIEW):
        pace.learn(Told(1, 0, 1, recycled=False, suffix=False, pair=True))
    assert pace.depths[RECYCLED] == 3
    assert pace.width() == 4
    for _ in range(8 * REVIEW):
        pace.learn(Told(1, 3, 1, recycled=True, suffix=None, pair=False))
    assert pace.depths[RECYCLED] == 0


@pytest.mark.parametrize("cost", [1.0, 20.0])
def test_what_graphs_cost_is_measured(cost: float) -> None:
    pace = Pace(15)
    for _ in range(8):
        pace.cost.measured(1, 1.0)
        for width in (2, 4, 8, 16):
            pace.cost.measured(width, cost)
    for _ in range(REVIEW):
        pace.learn(right(0))
    assert pace.depths[20] == (15 if cost == 1 else 0)
