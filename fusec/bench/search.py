"""A search over the choices of kernels by measuring the whole token.

A candidate takes turns with what it would replace, A B B A, so that a drifting clock cancels out.
All candidates of a kernel are measured briefly. The fastest may only have been lucky, so it has to
win again, in all but one of many turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fusec.ir.plan import Choice

Choices = Mapping[str, Choice]
Measure = Callable[[Choices], float]
"""Microseconds a token with those choices, by kernel."""
Pair = tuple[float, float]
T = TypeVar("T")

LOOK, TURNS = 2, 14  # of A B B A, for a first look and for a decision
LOSSES = 1  # of the turns; as many wins by luck have 15 chances in 16,384
FINALISTS = 2  # of the candidates of a kernel
LEAST = 5e-4  # of a token: a smaller gain is not worth an entry
PASSES = 2  # a kernel's best release depends on its neighbours' choices


@dataclass(frozen=True)
class Subject:
    """A kernel to tune: `geometries`, the default first, each with every one of `releases`.

    `share`: microseconds of a token that its launches take; the largest goes first.
    """

    name: str
    launches: int
    share: float
    geometries: tuple[Choice, ...]
    releases: tuple[str, ...]

    @property
    def default(self) -> Choice:
        """What it is compared with first."""
        return self.geometries[0]


@dataclass
class Found:
    """What a search came to: choices by kernel, what each gained in us a token, what was tried."""

    choices: dict[str, Choice]
    gains: dict[str, float] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)


def search(
    subjects: Sequence[Subject],
    measure: Measure,
    check: Callable[[Choices], None],
    seconds: float,
    *,
    note: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The best choices found within `seconds`, kernels one after another by their share.

    `check` raises for choices that must not be kept; it is asked before each that wins.
    """
    end = clock() + seconds
    found = Found({s.name: s.default for s in subjects})
    order = sorted(subjects, key=lambda s: s.share, reverse=True)
    for _ in range(PASSES):
        before = dict(found.choices)
        for subject in order:
            note(subject.name)
            for round_ in (_geometries, _releases):
                options = round_(subject, found.choices[subject.name])
                _improve(subject.name, options, found, measure, check, lambda: clock() >= end)
        if found.choices == before or clock() >= end:
            break
    return found


def turns(measure: Callable[[T], float], one: T, other: T, count: int) -> Iterator[Pair]:
    """Times of `one` and of `other`, measured in turns; a linear drift is the same in both."""
    for _ in range(count):
        a, b, c, d = measure(one), measure(other), measure(other), measure(one)
        yield (a + d) / 2, (b + c) / 2


def gain(pairs: Iterable[Pair]) -> float:
    """By how much the second is faster, in the median; 0 if that may be luck or is negligible.

    A sign test: it asks nothing of how the noise is distributed, and bears one turn spoilt. It
    takes no more pairs than it needs.
    """
    seen: list[Pair] = []
    losses = 0
    for a, b in pairs:
        seen.append((a, b))
        losses += a <= b
        if losses > LOSSES:
            return 0.0
    middle = statistics.median(a - b for a, b in seen)
    return middle if middle > LEAST * statistics.median(a for a, _ in seen) else 0.0


def _geometries(subject: Subject, now: Choice) -> Iterator[Choice]:
    yield from (replace(g, release=now.release) for g in subject.geometries)


def _releases(subject: Subject, now: Choice) -> Iterator[Choice]:
    yield from (replace(now, release=r) for r in subject.releases)


def _improve(
    name: str,
    options: Iterator[Choice],
    found: Found,
    measure: Measure,
    check: Callable[[Choices], None],
    late: Callable[[], bool],
) -> None:
    """Take the best of some options for one kernel, if it is better than what there is."""
    now = dict(found.choices)
    looks: list[tuple[float, Choice]] = []
    for option in options:
        if option == now[name]:
            continue
        if late():
            break
        pairs = turns(measure, now, now | {name: option}, LOOK)
        looks.append((statistics.median(a - b for a, b in pairs), option))
        found.tried[name] = found.tried.get(name, 0) + 1
    for look, option in sorted(looks, key=lambda item: item[0], reverse=True)[:FINALISTS]:
        if look <= 0 or late():
            return
        better = now | {name: option}
        if won := gain(turns(measure, now, better, TURNS)):
            check(better)
            found.choices = better
            found.gains[name] = found.gains.get(name, 0.0) + won
            return
