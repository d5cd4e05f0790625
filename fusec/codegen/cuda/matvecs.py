"""One segment of matvecs: what is the same whether it goes by rows or by tiles of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.shape import anchors


class Matvecs(ABC):
    """Emits one segment in two parts: `load`, what needs no activations, and `rest`.

    `limit`, `first` and `blocks`: see `Alike.size`. `early`: whether `load` loads something.
    """

    early: bool

    def __init__(self, alike: Alike, prologue: Prologue) -> None:
        self.alike, self.prologue = alike, prologue
        self.scope, self.segment = alike.scope, alike.segment
        self.limit, self.first, self.blocks = alike.size
        self.anchors = anchors(self.segment)
        self.at_once, self.steps = self.scope.geometry.rows_at_once, self.scope.geometry.steps
        self.indices = Indices(self.segment, "unit", self.limit)
        self.elements = Elements(self.scope, self.segment, self.indices, self.live, prologue.source)

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
