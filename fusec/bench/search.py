"""A search over the choices of kernels by measuring whole steps.

A candidate takes turns with what it would replace, A B B A, so that a drifting clock cancels out.
All candidates of a kernel are measured briefly. The fastest may only have been lucky, so it has to
win again, in all but one of many turns.

Where a launch lets the next one begin is worth something only beside what its neighbours do. So
each kernel tries its shapes and its releases alone, and then those that take most of a step try all
their releases together.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fusec.ir.choice import AnyChoice

Choices = Mapping[str, AnyChoice]
Measure = Callable[[Choices], float]
"""Microseconds a step with those choices, by kernel."""
Usable = Callable[[Sequence[Choices]], Sequence[Choices]]
"""Those of some choices that can be measured: what takes long to make is made for all at once."""
Pair = tuple[float, float]
T = TypeVar("T")

LOOK, TURNS = 2, 14  # of A B B A, for a first look and for a decision
LOSSES = 1  # of the turns; as many wins by luck have 15 chances in 16,384
FINALISTS = 2  # of the candidates of a kernel
FAR = 0.02  # of a step: by how much what is slower needs no second look
LEAST = 5e-4  # of a step: a smaller gain is not worth an entry
PASSES = 2  # a kernel's best release depends on its neighbours' choices
TOGETHER = 3  # kernels whose releases are tried together
MATTERS = 0.05  # of a step: a kernel that takes less is not among them


@dataclass(frozen=True)
class Subject:
    """A kernel to tune: `geometries`, the default first, each with every one of `releases`.

    `share`: microseconds of a step that its launches take; the largest goes first.
    """

    name: str
    launches: int
    share: float
    geometries: tuple[AnyChoice, ...]
    releases: tuple[str, ...]

    @property
    def default(self) -> AnyChoice:
        """What it is compared with first."""
        return self.geometries[0]


@dataclass
class Found:
    """What a search came to: choices by kernel, what each gained in us a step, what was tried.

    `looks`: microseconds that a step was seen to gain by some choices over the best of then; no
    search that goes on with them looks at them again.
    """

    choices: dict[str, AnyChoice]
    gains: dict[str, float] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)
    looks: dict[frozenset[tuple[str, AnyChoice]], float] = field(default_factory=dict)


def search(
    subjects: Sequence[Subject],
    measure: Measure,
    check: Callable[[Choices], None],
    seconds: float,
    *,
    usable: Usable = lambda options: options,
    before: Found | None = None,
    note: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The best choices found within `seconds`, kernels one after another by their share.

    `check` raises for choices that must not be kept; it is asked before each that wins. `before`:
    what another search came to, with which this one goes on.
    """
    found = Found({s.name: s.default for s in subjects})
    if before is not None:
        found = replace(before, choices=found.choices | before.choices)
    run = _Run(found, measure, check, usable, clock, clock() + seconds)
    order = sorted(subjects, key=lambda s: s.share, reverse=True)
    whole = measure(found.choices) if order else 0.0
    largest = [s for s in order[:TOGETHER] if s.share > MATTERS * whole]
    for _ in range(PASSES):
        earlier = dict(found.choices)
        run.usable([o for s in order for o in _geometries(s, found.choices)])
        for subject in order:
            note(subject.name)
            for options in (_geometries, _releases):
                run.improve(options(subject, found.choices))
        if len(largest) > 1:
            note("releases together")
            run.improve(_together(largest, found.choices))
        if found.choices == earlier or run.late:
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


def _geometries(subject: Subject, now: Choices) -> list[Choices]:
    release = now[subject.name].release
    return [{subject.name: replace(g, release=release)} for g in subject.geometries]


def _releases(subject: Subject, now: Choices) -> list[Choices]:
    return [{subject.name: replace(now[subject.name], release=r)} for r in subject.releases]


def _together(subjects: Sequence[Subject], now: Choices) -> list[Choices]:
    """Every release of every one of some kernels."""
    each = [[next(iter(o.items())) for o in _releases(s, now)] for s in subjects]
    return [dict(items) for items in itertools.product(*each)]


@dataclass
class _Run:
    """A search while it runs; `end`: the clock's time when it is to stop."""

    found: Found
    measure: Measure
    check: Callable[[Choices], None]
    usable: Usable
    clock: Callable[[], float]
    end: float

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.clock() >= self.end

    def improve(self, options: Sequence[Choices]) -> None:
        """Take the best of some options, each of some kernels, if it is better than what is."""
        found, now = self.found, dict(self.found.choices)
        wholes = {_key(whole): whole for option in options for whole in [{**now, **option}]}
        seen = {_key(now), *found.looks}
        new = [whole for key, whole in wholes.items() if key not in seen]
        looks: list[tuple[float, Choices]] = []
        for other in () if self.late else self.usable(new):
            if self.late:
                break
            gained = found.looks[_key(other)] = self._look(now, other)
            looks.append((gained, other))
            for name in (name for name in now if other[name] != now[name]):
                found.tried[name] = found.tried.get(name, 0) + 1
        for gained, other in sorted(looks, key=lambda item: item[0], reverse=True)[:FINALISTS]:
            if gained <= 0 or self.late or self._wins(now, other):
                return

    def _look(self, now: Choices, other: Choices) -> float:
        """What a step seems to gain, in the median; one turn is enough for what is far slower."""
        gains: list[float] = []
        for a, b in turns(self.measure, now, other, LOOK):
            gains.append(a - b)
            if a - b < -FAR * a:
                break
        return statistics.median(gains)

    def _wins(self, now: Choices, other: Choices) -> bool:
        """Keep what wins again; whether it did."""
        if won := gain(turns(self.measure, now, other, TURNS)):
            self.check(other)
            self.found.choices = dict(other)
            changed = [name for name in now if other[name] != now[name]]
            for name in changed:
                self.found.gains[name] = self.found.gains.get(name, 0.0) + won / len(changed)
        return won > 0


def _key(choices: Choices) -> frozenset[tuple[str, AnyChoice]]:
    return frozenset(choices.items())
