"""Differences between measured times, on machines that something else may be using.

More work takes more time. If it was measured to take less, something else used the machine
meanwhile: both are measured again, and refused if that is no better.
"""

from __future__ import annotations

from collections.abc import Callable

from fusec.errors import FusecError

NOISE = 0.05  # of a time: two times that are this close may come in either order
TRIES = 5
ADVICE = "something else uses this machine: end it, or measure again later"


def difference(
    measure: Callable[[], tuple[float, float]], what: str, noise: float = NOISE
) -> float:
    """By how many microseconds the first of two times is longer, measured again while it is not.

    0 where it stays shorter, by less than `noise` of the second. Raises FusecError, naming `what`
    the times are of, where it is shorter than that (with a `noise` of 0, where it is not longer).
    """
    for _ in range(TRIES):
        longer, shorter = measure()
        if longer > shorter:
            return longer - shorter
    if shorter - longer < noise * shorter:
        return 0.0
    raise FusecError(
        f"{what}: measured {longer:,.2f} us, and {shorter:,.2f} us with less to do, {TRIES} times: "
        f"{ADVICE}"
    )
