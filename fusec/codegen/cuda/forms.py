"""The forms that a prologue brings a vector into, and what remains to do when its quads arrive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fusec.codegen.cuda.sources import Source


class Form(ABC):
    """What a vector becomes in shared memory."""

    @abstractmethod
    def store(self, quad: str, i: str, inside: str, first: int) -> str:
        """The line that writes `quad`, number `first` + `i`, where `inside` holds.

        `first`, a multiple of eight, is known to the compiler: threads find their places once.
        """


@dataclass(frozen=True)
class Floats(Form):
    """The floats as they are."""

    address: str

    def store(self, quad: str, i: str, inside: str, first: int) -> str:
        """See `Form.store`."""
        return f"store_floats({quad}, {i}, {inside}, {behind(self.address, 16 * first)})"


@dataclass(frozen=True)
class FixedPoint(Form):
    """Addresses of the fixed-point form; `sums` is empty where no format has minima.

    `tiled`: as products of tiles want it; their sums are of half blocks.
    """

    digits: str
    scales: str
    sums: str
    blocks: int
    tiled: bool

    def store(self, quad: str, i: str, inside: str, first: int) -> str:
        """See `Form.store`."""
        block, given = first // 8, f"{quad}, {i}, {inside}"
        scales = behind(self.scales, 4 * block)
        if self.tiled:
            line = f"store_tile_digits({given}, {behind(self.digits, 96 * block)}, {scales})"
            sums = f"store_half_sums({line}, {i}, {inside}, {behind(self.sums, 8 * block)})"
        else:
            digits = behind(self.digits, 16 * block)
            line = f"store_digits({given}, {self.blocks}, {digits}, {scales})"
            sums = f"store_sum({line}, {i}, {inside}, {behind(self.sums, 4 * block)})"
        return sums if self.sums else line


@dataclass(frozen=True)
class KeptFixed(Form):
    """Fixed point of type `kind` in memory, for products of many rows; a whole row at `pointer`."""

    pointer: str
    kind: str

    def store(self, quad: str, i: str, inside: str, first: int) -> str:
        """See `Form.store`."""
        i = f"uint32({i} + {first})" if first else i
        return f"keep_{self.kind}({quad}, {i}, {inside}, {self.pointer}, row)"


def behind(address: str, nbytes: int) -> str:
    """The address that many bytes behind."""
    return f"uint32({address} + {nbytes})" if nbytes else address


@dataclass(frozen=True)
class Squares:
    """Where sums of squares of the quads that make `vector` go, and the factor they make."""

    vector: str
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
    """What to make of a source's first `count` quads.

    `kept`: a vector among `KernelShape.stores` whose quads are made on the way.
    """

    source: Source
    count: int
    form: Form | None = None
    squares: Squares | None = None
    kept: str = ""
