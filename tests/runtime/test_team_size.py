"""How many threads take part, on made-up machines that tell how long a run takes with each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from fusec.runtime.cpu.team_size import TeamSize

TOKEN = 0.012  # seconds of a run with all threads on a quiet machine


def shared_out(
    size: TeamSize, seconds: float, pace: Callable[[int], float], absent: Callable[[int], float]
) -> Counter[int]:
    """Run for a time; how many seconds of it went to each size."""
    spent: Counter[int] = Counter()
    while sum(spent.values()) < seconds:
        now = size.now
        assert 1 <= now <= size.most
        took = TOKEN * pace(now)
        size.record("decode", took, absent(now), round(100 * absent(now)))
        spent[now] += took
    return spent


@pytest.mark.parametrize("most", [1, 2, 16])
def test_on_a_quiet_machine_all_take_part(most: int) -> None:
    assert set(shared_out(TeamSize(most), 5, lambda _: 1.0, lambda _: 0.0)) == {most}


def test_an_accident_is_no_reason() -> None:
    size = TeamSize(4)
    for run in range(200):
        size.record("decode", TOKEN, 0.0, 0)
        if run % 5 == 0:
            size.record("decode", TOKEN, 0.01, 1)
    assert size.now == 4


def test_cores_that_others_use_are_left_to_them() -> None:
    """3 of 16 cores are busy: whoever shares one is late, and 13 threads have one each."""
    busy = 3
    absent = lambda now: max(0, now - (16 - busy))  # noqa: E731
    spent = shared_out(TeamSize(16), 10, lambda now: 2.0 if absent(now) else 16 / now, absent)
    assert spent[13] > 0.8 * sum(spent.values())


def test_where_fewer_threads_are_slower_all_take_part() -> None:
    """As many busy programs as cores: to be one of three on two cores is worse than two of four."""
    spent = shared_out(TeamSize(2), 20, lambda now: {2: 2.2, 1: 3.0}[now], lambda _: 0.3)
    assert spent[2] > 0.9 * sum(spent.values())


def test_all_come_back_when_the_others_have_gone() -> None:
    size = TeamSize(8)
    shared_out(size, 3, lambda now: 2.0 if now > 6 else 8 / now, lambda now: max(0, now - 6))
    assert size.now == 6
    shared_out(size, 3, lambda now: 8 / now, lambda _: 0.0)
    assert size.now == 8


def test_runs_of_another_table_are_not_compared() -> None:
    size = TeamSize(2)
    while size.now == 2:
        size.record("decode", TOKEN, 0.5, 50)
    size.record("prefill", TOKEN / 100, 0.5, 50)  # shorter, but for another reason
    assert size.now == 2
