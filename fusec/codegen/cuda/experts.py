"""Vectors that go with the experts that ids choose, such as their biases."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.codegen.cuda.sources import Source


@dataclass
class ExpertVectors(Source):
    """The vectors of `used` chosen experts, `rows` floats each, one after the other."""

    vectors: str
    ids: str
    rows: int
    used: int

    def __post_init__(self) -> None:
        self.n = self.used * self.rows

    @property
    def _given(self) -> str:
        return f"{self.vectors}, {self.ids}"

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"quad_of_experts({self._given}, {i}, {self.rows}, {self.n})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"element_of_experts({self._given}, {i}, {self.rows})"


@dataclass
class WeightedVectors(ExpertVectors):
    """Their sum, times weights."""

    weights: str

    def __post_init__(self) -> None:
        self.n = self.rows

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"quad_over_experts({self._given}, {self.weights}, {i}, {self.rows}, {self.used})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        given = f"{self._given}, {self.weights}, {i}, {self.rows}, {self.used}"
        return f"element_over_experts({given})"
