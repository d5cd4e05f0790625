"""What a GPU kernel may vary without changing a byte of any result; `fusec tune` measures it.

A `Choice` is for kernels whose warps make rows, a `Tiling` for those whose blocks make tiles of
several rows of a step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RELEASES = ("wait", "barrier", "load", "read", "begin", "end")
"""Where a kernel lets the next launch begin: `wait`, right behind its own wait; `barrier`, behind
the barrier that ends the prologue; `load`, in front of the wait, when its weights are asked for;
`read`, when the first of what the launch in front made is read; `begin`, at its first line; `end`,
when its blocks end."""

WAYS = ("", "interleaved", "teams", "exchanged")
"""How a block takes several rows of a step: with each statement written for each row, or with the
tensor cores and prologues by some warps each, or by a block of the cluster each (see
`fusec.codegen.cuda.rows` and `row_prologues`). An empty one leaves it to the emitter."""

LANES = 32  # of a warp


@dataclass(frozen=True)
class Choice:
    """The shape of a kernel whose warps make rows of matrices.

    `warps` of a block; how many rows of matrices a warp makes together (`rows_at_once`) and in turn
    (`steps`); `min_blocks` that should fit one SM at once, which bounds the registers; `release`:
    where a kernel that overlaps lets the next launch begin (see `fusec.passes.overlap`); `alone`:
    no two blocks of a launch on one SM, by asking for more than half of its shared memory;
    `paired`: two blocks share the columns of long rows; `width`: rows of a step of several that a
    block takes, 0: as the plan has it; `way`: how it takes them, one of `WAYS`.
    Raises ValueError for what no kernel can be.
    """

    warps: int
    rows_at_once: int = 1
    steps: int = 1
    min_blocks: int = 1
    release: str = "wait"
    alone: bool = False
    paired: bool = False
    width: int = 0
    way: str = ""

    def __post_init__(self) -> None:
        counts = (self.warps, self.rows_at_once, self.steps, self.min_blocks)
        if not all(type(n) is int and n > 0 for n in counts) or self.warps > 32:
            raise ValueError(f"expected counts from 1, at most 32 warps, found {self}")
        if type(self.width) is not int or self.width < 0:
            raise ValueError(f"expected a number of rows of a step, found {self.width!r}")
        if self.way not in WAYS:
            raise ValueError(f"expected a way of {', '.join(WAYS[1:])}, found {self.way!r}")
        _check_release(self.release)

    def __str__(self) -> str:
        counts = {"rows at once": self.rows_at_once, "steps": self.steps,
                  "blocks an SM": self.min_blocks, "rows of the step": self.width}  # fmt: skip
        parts = [f"{self.warps} warps", *(f"{n} {what}" for what, n in counts.items() if n > 1)]
        parts += ["a layer a row"] * (self.width == 1) + [self.way] * bool(self.way)
        parts += ["alone"] * self.alone + ["paired"] * self.paired
        return _with_release(parts, self.release)


@dataclass(frozen=True)
class Tiling:
    """How a block shares a tile out: `across` x `along` warps, each of `high` x `wide` fragments.

    A fragment is 16 rows of the matrix by 8 of the step. `deep` (a power of two) times as many
    warps share the columns: each takes a branch of the tree of leaves. `slab`: blocks of 32 columns
    that a warp takes at a time; `beside`: thread blocks that should fit one SM; `stages`: slabs in
    shared memory, of which all but one are on their way there. `release`: see `Choice`.
    Raises ValueError for what no kernel can be.
    """

    across: int
    along: int
    high: int
    wide: int
    slab: int = 4
    beside: int = 1
    stages: int = 2
    deep: int = 1
    release: str = "wait"

    def __post_init__(self) -> None:
        counts = [value for name, value in asdict(self).items() if name != "release"]
        if not all(type(n) is int and n > 0 for n in counts) or self.threads > 1024:
            raise ValueError(f"expected counts from 1, at most 32 warps, found {self}")
        if self.deep & (self.deep - 1) or self.stages < 2:
            raise ValueError(f"expected a power of two deep, and two stages or more, found {self}")
        _check_release(self.release)

    def __str__(self) -> str:
        counts = {"deep": self.deep, "blocks of columns": self.slab, "stages": self.stages,
                  "blocks an SM": self.beside}  # fmt: skip
        parts = [f"tiles of {self.rows} x {self.width}, {self.threads // LANES} warps"]
        parts += [f"{n} {what}" for what, n in counts.items() if n > 1]
        return _with_release(parts, self.release)

    @property
    def rows(self) -> int:
        """Rows of matrices."""
        return 16 * self.across * self.high

    @property
    def width(self) -> int:
        """Rows of the step."""
        return 8 * self.along * self.wide

    @property
    def threads(self) -> int:
        """In a block."""
        return LANES * self.across * self.along * self.deep


AnyChoice = Choice | Tiling


def choice_of(raw: dict[str, Any]) -> AnyChoice:
    """A choice from its `asdict`. Raises TypeError or ValueError for anything else."""
    return Tiling(**raw) if "across" in raw else Choice(**raw)


def _check_release(release: str) -> None:
    if release not in RELEASES:
        raise ValueError(f"expected a release of {', '.join(RELEASES)}, found {release!r}")


def _with_release(parts: list[str], release: str) -> str:
    return ", ".join(parts if release == "wait" else [*parts, f"next at {release}"])
