"""What a pass has to know of the machine it fuses for: plain data, made by the code generator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`formats`: weight types its emitters read. `block_bytes`: memory one block has to itself."""

    name: str
    formats: frozenset[str]
    block_bytes: int
