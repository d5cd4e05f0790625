"""What compiling gives: stages, plans and kernels, and how they become a session or an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fusec import backends
from fusec.arguments import mistaken, none_of
from fusec.backends import Backend, Plans
from fusec.backends.base import Code, Progress
from fusec.codegen.cuda.tuning import Tuning
from fusec.errors import FusecError
from fusec.ir.graph import Graph
from fusec.ir.plan import LaunchPlan
from fusec.models.model import Model
from fusec.runtime.cuda.window import check_mode
from fusec.runtime.engine import Engine
from fusec.runtime.session import Session
from fusec.writer import brief, count

if TYPE_CHECKING:
    from fusec.passes.pipeline import Stage
    from fusec.passes.rule import Rule

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Options:
    """How to compile. `rules` are run after the level's own; `disable` names rules to leave out.

    `tuning`: shapes of kernels that were measured, for a GPU. `outputs`: names, or patterns of
    names, of values to give out beside the logits (see `fusec.passes.give_out`).
    """

    target: str
    level: int
    rules: tuple[Rule, ...] = ()
    disable: tuple[str, ...] = ()
    stop_after: str | None = None
    tuning: Tuning = field(default_factory=Tuning)
    outputs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        more = [f"rules {', '.join(rule.name for rule in self.rules)}"] if self.rules else []
        more += [f"without {', '.join(self.disable)}"] if self.disable else []
        return brief(self, "; ".join([f"{self.target} -O{self.level}", *more]))


@dataclass(frozen=True)
class Prepared:
    """All that a target makes an engine of, beside the model file itself.

    `kernels`: name -> source, as `Backend.emit` gives it.
    """

    target: str
    plans: Plans
    kernels: Mapping[str, Any]

    def __repr__(self) -> str:
        decode = self.plans.decode
        return brief(self, f"{decode.name}: {decode.summary}; {count(len(self.kernels), 'source')}")

    def engine(
        self,
        model: Model,
        progress: Progress | None = None,
        threads: int = 0,
        *,
        l2: str = "auto",
        eager: bool = False,
        resident: bool = False,
    ) -> Engine:
        """The model ready to generate; `fusec.load` says what the options mean."""
        backend = backends.get(self.target)
        kernels = backend.ready(self.kernels, progress)
        how: dict[str, Any] = {"l2": l2, "eager": eager, "resident": resident}
        return backend.engine(self.plans, kernels, model, progress, threads, **how)


@dataclass(frozen=True)
class Compilation:
    """A compiled graph: every stage it went through, its launch plan, its kernels' sources.

    `plan` steps the graph's own T (1 for a model: decode). `widen` gives the same pipeline's plans
    for steps of several tokens beside it; a graph built by hand has none.
    """

    options: Options
    stages: tuple[Stage, ...]
    plan: LaunchPlan
    widen: Callable[[], Plans] | None = None
    model: Model | None = None
    context: int = 0
    kv: str = "f16"

    def __repr__(self) -> str:
        rows = "" if self.plan.tokens == 1 else f", {self.plan.tokens} rows a step"
        name = self.model.file.path.stem if self.model else self.plan.name
        return brief(self, f"{name}: {self.plan.summary}{rows}")

    @cached_property
    def plans(self) -> Plans | None:
        """Those of all steps, made when they are first asked for; None of a graph."""
        return None if self.widen is None else self.widen()

    @property
    def prefill(self) -> LaunchPlan | None:
        """The plan of a prompt's steps; None of a graph."""
        return None if self.plans is None else self.plans.prefill

    @property
    def graph(self) -> Graph:
        """The graph after the last stage."""
        return self.stages[-1].graph

    @property
    def backend(self) -> Backend[Any, Any]:
        """The target's."""
        return backends.get(self.options.target)

    @cached_property
    def kernels(self) -> dict[str, Any]:
        """Name -> source of every kernel of the plans, and of a GPU's token loop."""
        backend = self.backend
        wider = () if self.plans is None else backend.variants(self.plans)
        unique = {k.name: k for plan in (self.plan, *wider) for k in plan.kernels}
        found = {name: backend.emit(kernel) for name, kernel in unique.items()}
        return found | backend.loop_kernels(self.plan)

    def build(self, progress: Progress | None = None) -> Mapping[str, Code]:
        """Compile every kernel, or take it from the cache. Returns a CUDA target's cubins."""
        return self.backend.build(self.kernels, progress)

    def session(
        self, weights: Mapping[str, Array], progress: Progress | None = None, threads: int = 0
    ) -> Session:
        """The plan bound to memory, for a graph built by hand.

        `weights` holds, by name without '@', float32 arrays for f32 weights and raw GGUF blocks
        (uint8[rows, row bytes]) for quantised ones. On the CPU they are read where they lie.
        Raises FusecError naming a weight that is missing, of another type or shape, or none of the
        graph's.
        """
        self._check_names(weights)
        backend = self.backend
        kernels = backend.ready(self.kernels, progress)
        return backend.session(self.plan, kernels, weights, progress, threads)

    def _check_names(self, weights: Mapping[str, Array]) -> None:
        """Raise FusecError for weights that the graph, as it was given, does not read."""
        if not isinstance(weights, Mapping):
            raise mistaken(self.plan.name, "weights as a dict of name -> array", weights)
        known = [weight.name[1:] for weight in self.stages[0].graph.weights]
        for name in weights:
            if name not in known:
                raise none_of(f"{self.plan.name}: it reads no weight", name, known)

    def engine(
        self,
        progress: Progress | None = None,
        threads: int = 0,
        *,
        l2: str = "auto",
        eager: bool = False,
        resident: bool = False,
    ) -> Engine:
        """The model ready to generate; `load` says what the options mean.

        Raises FusecError for a graph that came without a model.
        """
        check_mode(l2)
        if self.model is None:
            raise self._no_model()
        how: dict[str, Any] = {"l2": l2, "eager": eager, "resident": resident}
        return self.prepared.engine(self.model, progress, threads, **how)

    @property
    def prepared(self) -> Prepared:
        """What an engine is made of. Raises FusecError for a graph that came without a model."""
        if self.plans is None:
            raise self._no_model()
        return Prepared(self.options.target, self.plans, self.kernels)

    def _no_model(self) -> FusecError:
        return FusecError(f"{self.plan.name} was compiled from a graph: use session(weights)")
