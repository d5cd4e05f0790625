"""What a prologue makes of a vector, and what of it is still to be made when its quads arrive."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.codegen.cuda.sources import Source


@dataclass(frozen=True)
class FixedPoint:
    """Addresses of a vector's fixed-point form; `sums` is empty where no format has minima."""

    digits: str
    scales: str
    sums: str
    blocks: int


@dataclass(frozen=True)
class Squares:
    """Where sums of squares of a vector's quads go, and the factor they make."""

    partials: str
    quads: int
    factor: str
    eps: float
    n: int

    @property
    def of_lane(self) -> str:
        """Expression of what is a lane's of the sum."""
        return f"squares_of_lane({self.partials}, {self.quads}, lane)"

    def made_of(self, total: str) -> str:
        """The line that makes the factor."""
        fraction = f"float32({1 / self.n!r})"
        return f"{self.factor} = inverse_rms({total}, {fraction}, float32({self.eps!r}))"


@dataclass(frozen=True)
class Pending:
    """What to make of a source's first `count` quads: `line` writes `{quad}` at index `{i}`.

    `kept`: a vector among `KernelShape.stores` whose quads are made on the way.
    """

    source: Source
    count: int
    line: str = ""
    squares: Squares | None = None
    kept: str = ""
