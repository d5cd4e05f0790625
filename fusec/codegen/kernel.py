"""What the emitters hand on: a kernel as source text and what launching it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelSource:
    """`scratch_bytes`: private memory one block (thread, on the CPU) needs for each token."""

    name: str
    source: str
    scratch_bytes: int
