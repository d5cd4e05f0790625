"""How many threads of a team take part in a run: all, or fewer while other programs use cores.

A launch ends with its last part. A thread that loses its core while it works on a part holds up all
others for a time slice; the part of a thread that does not come at all is done by another one.
Fewer threads, each with a core of its own, can be faster than that. Where every core is shared,
they are slower. So when threads are seen to be late, both are tried, and the faster is kept for a
while.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

WINDOW_SECONDS = 0.05  # a dozen time slices
WINDOW_RUNS = 2
LATE = 3  # parts left to others and sleeps, in a window, that are no accident
HOLD, MOST_HOLD = 0.25, 2.0  # seconds that a size is kept before another is tried


@dataclass
class _Window:
    """Runs of one table with one size."""

    key: Hashable = None
    runs: int = 0
    seconds: float = 0.0
    absent: float = 0.0  # threads a launch, summed over runs
    late: int = 0

    @property
    def is_full(self) -> bool:
        return self.runs >= WINDOW_RUNS and self.seconds >= WINDOW_SECONDS

    @property
    def pace(self) -> float:
        """Seconds a run."""
        return self.seconds / self.runs


class TeamSize:
    """`now` is the number of threads for the next run, 1 to `most`."""

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self._kept = most  # what another size is compared with
        self._pace = 0.0  # of it
        self._window = _Window()
        self._held, self._hold = 0.0, 0.0
        self._upwards = True  # where both directions are open, they take turns

    def record(self, key: Hashable, seconds: float, absent: float, late: int) -> None:
        """A run that is over.

        `key`: runs with the same take equally long. `absent`: threads, in the mean of the launches,
        whose part another one did. `late`: how often that was so, and how often a thread slept.
        """
        if key != self._window.key:
            self._window = _Window(key)
            self.now = self._kept  # what was tried cannot be compared
        window = self._window
        window.runs += 1
        window.seconds += seconds
        window.absent += absent
        window.late += late
        if window.is_full:
            self._window = _Window(key)
            self._decide(window)

    def _decide(self, window: _Window) -> None:
        self._held += window.seconds
        if self.now != self._kept:  # tried for one window
            better = window.pace < self._pace
            self._hold = HOLD if better else min(2 * max(self._hold, HOLD / 2), MOST_HOLD)
            self._kept = self.now = self.now if better else self._kept
            self._held = 0.0
        elif self._held >= self._hold:
            self._pace = window.pace
            self.now = self._other(window)

    def _other(self, window: _Window) -> int:
        """A size worth trying, or the present one."""
        fewer = self.now
        if window.late >= LATE:
            fewer = max(1, self.now - max(1, round(window.absent / window.runs)))
        if self.now == self.most:
            return fewer
        self._upwards = not self._upwards or fewer == self.now
        return self.most if self._upwards else fewer
