"""What a pass has to know of the machine it fuses for: plain data, made by the code generator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`formats`: weight types its emitters read. `block_bytes`: memory one block has to itself.

    `overlaps`: a launch can start before the one in front of it has ended.
    """

    name: str
    formats: frozenset[str]
    block_bytes: int
    overlaps: bool = False
