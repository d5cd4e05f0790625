"""One segment of matvecs: what is the same whether it goes by rows or by tiles of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import anchors
from fusec.ir.region import Segment


class Matvecs(ABC):
    """Emits one segment in two parts: `load`, what needs no activations, and `rest`.

    `limit`: the segment's units, a number or a variable; `first` and `blocks`: its place in the
    grid. `early`: whether `load` loads something.
    """

    early: bool

    def __init__(
        self,
        scope: Scope,
        prologue: Prologue,
        segment: Segment,
        limit: int | str,
        first: str,
        blocks: int | str,
    ) -> None:
        self.scope, self.prologue, self.segment = scope, prologue, segment
        self.limit, self.first, self.blocks = limit, first, blocks
        self.anchors = anchors(segment)
        self.at_once, self.steps = scope.geometry.rows_at_once, scope.geometry.steps
        self.indices = Indices(segment, "unit", limit)
        self.elements = Elements(scope, segment, self.indices, self.live, prologue.source)

    @property
    @abstractmethod
    def live(self) -> str:
        """Whether this lane has a unit to store."""

    @abstractmethod
    def load(self) -> None:
        """The first weights, in front of the wait."""

    @property
    def has_activations(self) -> bool:
        """Whether `fetch_activations` loads something."""
        return self.early and self.steps == 1 and bool(self.elements.activations)

    def fetch_activations(self) -> None:
        """Loads of what the element-wise work needs of other kernels, before the prologue."""
        self.elements.fetch_activations()

    @property
    def has_ahead(self) -> bool:
        """Whether `beside_reads` emits something."""
        return False

    def beside_reads(self) -> None:  # noqa: B027  few have something
        """What needs no activations, while the first ones are on their way."""

    def rest(self) -> None:
        """Everything else."""
        self.elements.begin_folds()
        self._rest()
        self.elements.finish_folds(self.first, self.blocks)

    @abstractmethod
    def _rest(self) -> None:
        """Everything else but the folds' beginning and end."""
