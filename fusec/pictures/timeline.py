"""One token on a line of time, its launches as wide as they are long; and single layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from fusec.pictures.style import role_of
from fusec.pictures.subject import Subject
from fusec.pictures.tally import Tally, launch_times
from fusec.pictures.view import runs

TICKS = 6  # steps at most, on a line
LAST = 0.92  # of a line, where the last tick may stand


@dataclass(frozen=True)
class Segment:
    """A launch: its place in the plan, the layer it belongs to, when it begins and how long it is.

    Times are in us from the token's first launch; `role` colours it.
    """

    place: int
    kind: str
    kernel: str
    layer: int | None
    role: str
    begin: float
    us: float


@dataclass(frozen=True)
class Line:
    """A token by one source. `outside`: us at its end that are in no launch, 0 or more."""

    source: str
    segments: list[Segment]
    outside: float

    @property
    def end(self) -> float:
        """Microseconds that the line spans."""
        return sum(s.us for s in self.segments) + self.outside

    @property
    def layers(self) -> list[tuple[int | None, float]]:
        """Layers in order, None outside of them, and the us of each."""
        groups = groupby(self.segments, key=lambda s: s.layer)
        return [(layer, sum(s.us for s in found)) for layer, found in groups]

    @property
    def ticks(self) -> list[tuple[float, float]]:
        """Round times in us, and where each stands, as a share of the line.

        None so near the end that its number would not fit.
        """
        steps = (m * 10.0**e for e in range(-3, 9) for m in (1, 2, 5))
        step = next(s for s in steps if self.end / s <= TICKS)
        count = int(LAST * self.end / step) + 1
        return [(i * step, i * step / self.end) for i in range(count)]


@dataclass(frozen=True)
class Close:
    """A layer by itself, and `like`: how many others do the same."""

    layer: int
    like: int
    segments: list[Segment]

    @property
    def us(self) -> float:
        """Of the layer."""
        return sum(s.us for s in self.segments)


def lines(subject: Subject, counted: Tally) -> list[Line]:
    """A line a source, those that predict first."""
    by_name = {node.name: node for node in subject.graph.nodes}
    found = []
    for source, times in launch_times(subject).items():
        segments, begin = [], 0.0
        for place, (name, us) in enumerate(times.items(), start=1):
            node = by_name[name]
            kernel = subject.kernel_of[name]
            segments.append(Segment(place, node.kind, kernel, node.layer, role_of(node), begin, us))
            begin += us
        found.append(Line(source, segments, max(0.0, counted.outside[source])))
    return found


def closeups(subject: Subject, line: Line) -> list[Close]:
    """Each layer that does something of its own, in order."""
    folded = runs(subject.graph)
    layers = sorted({s.layer for s in line.segments if s.layer is not None} - set(folded))
    return [
        Close(
            layer,
            sum(run.like == layer for run in folded.values()),
            [s for s in line.segments if s.layer == layer],
        )
        for layer in layers
    ]
