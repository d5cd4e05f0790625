"""An emitted kernel: its source text, and what a launch of it needs."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.writer import brief, count


@dataclass(frozen=True)
class KernelSource:
    """`scratch_bytes`: private memory one block (thread, on the CPU) needs for each token."""

    name: str
    source: str
    scratch_bytes: int

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {count(len(self.source.splitlines()), 'line')}")
