"""What matvecs by rows (`matvec`) and in tiles (`tiles`) have in common: their stages."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fusec.codegen.cuda.alike import Alike
from fusec.codegen.cuda.elements import Elements, Indices
from fusec.codegen.cuda.prologue import Prologue
from fusec.codegen.cuda.shape import anchors
from fusec.codegen.cuda.stages import Stage


class Matvecs(ABC):
    """Emits one segment. `limit`, `first` and `blocks`: see `Alike.size`.

    `early`: whether there are loads in front of the wait, `loads_at` in which stage.
    """

    early: bool
    loads_at = Stage.LOAD

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

    def emit_loads(self) -> None:
        """What needs no activations, and the loads of those that come beside the prologue's."""
        with self.alike.at(self.loads_at):
            self.alike.choose()
            if self.early:
                self.load()
        with self.alike.at(Stage.READ):
            if self.early and self.steps == 1:
                self.fetch_activations()

    def emit(self) -> None:
        """Everything else. The prologue knows by now what it makes of the vectors."""
        with self.alike.at(Stage.BESIDE):
            self.beside_reads()
        with self.alike.at(Stage.COMPUTE, apart=True):
            self.elements.begin_folds()
            self._rest()
            self.elements.finish_folds(self.first, self.blocks)

    def fetch_activations(self) -> None:
        """Loads of what the element-wise work needs of other kernels, before the prologue."""
        self.elements.fetch_activations()

    def beside_reads(self) -> None:  # noqa: B027  few have something
        """What needs no activations, while the first ones are on their way."""

    @abstractmethod
    def _rest(self) -> None:
        """From the activations to the stores."""
