"""Drafted tokens: several are guessed, one step checks them, and the text stays the same.

`docs/drafting.md` has how it works, and how to write a drafter.
"""

from __future__ import annotations

from fusec.runtime.drafting.auto import Auto
from fusec.runtime.drafting.drafter import Drafter, Guess, Row
from fusec.runtime.drafting.drafting import Drafting, DraftStatistics
from fusec.runtime.drafting.recycle import Recycle
from fusec.runtime.drafting.suffix import Suffix

__all__ = [
    "DRAFTERS",
    "MOST_DRAFTED",
    "Auto",
    "DraftStatistics",
    "Drafter",
    "Drafting",
    "Guess",
    "Recycle",
    "Row",
    "Suffix",
    "renewed",
]

MOST_DRAFTED = 15
"""Tokens guessed for a step at most, unless somebody says otherwise: steps of 16 rows."""

DRAFTERS: dict[str, type[Drafter]] = {"auto": Auto, "suffix": Suffix, "recycle": Recycle}
"""What needs no other model, by the name that `--draft` takes."""


def renewed(drafter: Drafter | None) -> Drafter | None:
    """One that knows no text yet, to measure with; those that have a model remember none."""
    if drafter is None or type(drafter) not in DRAFTERS.values():
        return drafter
    return type(drafter)()
