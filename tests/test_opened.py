"""Engines that stay open between turns, on machines whose memory holds so many."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fusec.bench.opened import Opened
from fusec.runtime.engine import Engine


class Machine:
    """Opens engines, no more at once than it holds; working takes the room of `extra` more."""

    def __init__(self, holds: int, extra: int = 0) -> None:
        self.holds, self.extra = holds, extra
        self.open: list[int] = []
        self.log: list[int] = []

    def take(self, more: int) -> None:
        if len(self.open) + more > self.holds:
            raise MemoryError

    def open_one(self, number: int) -> Engine:
        self.take(1)
        self.open.append(number)
        self.log.append(number)
        return cast(Engine, One(self, number))

    def work(self, engine: Any) -> int:
        self.take(self.extra)
        assert engine.number in self.open
        return engine.number


class One:
    """An engine."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine, self.number = machine, number

    def __enter__(self) -> One:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.machine.open.remove(self.number)


def rounds(machine: Machine, engines: int, count: int = 3) -> None:
    with Opened(machine.open_one) as opened:
        for _ in range(count):
            assert [opened.use(i, machine.work) for i in range(engines)] == list(range(engines))
    assert machine.open == []


def test_each_is_opened_once() -> None:
    machine = Machine(holds=5)
    rounds(machine, 5)
    assert machine.log == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("extra", [0, 1])
def test_where_memory_does_not_hold_all_half_as_many_stay(extra: int) -> None:
    machine = Machine(holds=4 + extra, extra=extra)
    rounds(machine, 6)
    again = [4] * extra  # opened, but its work found no room
    assert machine.log == [0, 1, 2, 3, *again, 4, 5] + [0, 1, 2, 3] * 2  # 4 and 5 stay


def test_where_memory_holds_one_each_use_opens_one() -> None:
    machine = Machine(holds=1)
    rounds(machine, 3, 2)
    assert machine.open == []
    assert machine.log == [0, 1, 2, 0, 1, 2]


def test_too_little_for_a_single_one_is_said() -> None:
    with Opened(Machine(holds=0).open_one) as opened, pytest.raises(MemoryError):
        opened.use(0, lambda _: None)


def test_an_engine_whose_work_fails_is_closed_at_the_end() -> None:
    machine = Machine(holds=2)
    with Opened(machine.open_one) as opened, pytest.raises(ZeroDivisionError):
        opened.use(0, lambda _: 1 / 0)
    assert machine.open == []
