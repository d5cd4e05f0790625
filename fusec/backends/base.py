"""What a target is to the rest of fusec: one object that emits, builds, loads and runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from fusec.codegen.cuda.tuning import Tuning
from fusec.ir.graph import Graph
from fusec.ir.plan import Kernel, LaunchPlan, Size
from fusec.ir.target import Target
from fusec.models.model import Model
from fusec.runtime.engine import Engine
from fusec.runtime.session import Session
from fusec.writer import brief

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]
Facts = dict[str, Any]
"""Plain data, for JSON."""


class Source(Protocol):
    """An emitted kernel."""

    @property
    def name(self) -> str:
        """The kernel's name in the plan."""

    @property
    def source(self) -> str:
        """A Python module that defines it."""


class Code(Protocol):
    """A kernel's machine code, where a compiled folder keeps it."""

    @property
    def data(self) -> bytes:
        """The file's contents."""


PREFILL = "prefill.json"
WIDER = (PREFILL, "rows-*.json")
"""Patterns of the files that keep the plans of steps of several tokens."""


def wider_files(names: Iterable[str]) -> list[str]:
    """Those of some files."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in WIDER)]


@dataclass(frozen=True)
class Plans:
    """A model's plans, which share states: `decode` steps one token, `prefill` as many as any.

    `between`: what steps fewer of them sooner, the fewest first.
    """

    decode: LaunchPlan
    prefill: LaunchPlan
    between: tuple[LaunchPlan, ...] = ()

    @classmethod
    def of(cls, decode: LaunchPlan, wider: Mapping[str, LaunchPlan]) -> Plans:
        """Those that were kept as `decode` and `wider`."""
        between = (plan for name, plan in wider.items() if name != PREFILL)
        ordered = sorted(between, key=lambda plan: plan.tokens)
        return cls(decode, wider.get(PREFILL, decode), tuple(ordered))

    @property
    def wider(self) -> dict[str, LaunchPlan]:
        """All but `decode`, by the names of files that keep them (`WIDER`)."""
        found = {f"rows-{plan.tokens}.json": plan for plan in self.between}
        return found if self.prefill is self.decode else {PREFILL: self.prefill, **found}

    @property
    def several(self) -> tuple[LaunchPlan, ...]:
        """Those for several tokens, the fewest first."""
        return tuple(p for p in (*self.between, self.prefill) if p is not self.decode)

    def __repr__(self) -> str:
        widths = dict.fromkeys(str(plan.tokens) for plan in (self.decode, *self.several))
        return brief(self, f"{self.decode.name}: for steps of {', '.join(widths)} rows")


Emitted = TypeVar("Emitted", bound=Source)
Ready = TypeVar("Ready")


class Backend(ABC, Generic[Emitted, Ready]):
    """One target. `Emitted` is a kernel's source, `Ready` what its sessions are bound to: kernels.

    `limits`: what passes have to know of it. The class says the rest: `family`: backends of one
    family are measured alike (`fusec.bench.instruments`); `level`: the one that is meant where none
    is given; `prefill_tokens`: how many tokens of a prompt one step takes; `between_tokens`:
    up to how many have a plan of their own besides; `scalars`: what every
    launch is passed beside pointers; `launches`: names of the ways to launch a plan, the usual one
    first; others are among "eager", kernel by kernel, and "resident", one launch for many tokens;
    `l2_modes`: whether a generation can be asked how it uses the L2 cache; `has_choices`: whether a
    kernel's shape is a `Choice` that `fusec tune` measures; `suffix`: of machine code in a compiled
    folder.
    """

    family: ClassVar[str]
    level: ClassVar[int]
    prefill_tokens: ClassVar[int] = 1
    between_tokens: ClassVar[tuple[int, ...]] = ()
    scalars: ClassVar[tuple[str, ...]] = ()
    launches: ClassVar[tuple[str, ...]]
    l2_modes: ClassVar[bool] = False
    has_choices: ClassVar[bool] = False
    suffix: ClassVar[str] = ""

    def __init__(self, limits: Target) -> None:
        self.limits = limits

    @property
    def name(self) -> str:
        """What `--target` calls it: `cpu`, or a GPU's architecture."""
        return self.limits.name

    # --- kernels ---------------------------------------------------------------------------------

    @abstractmethod
    def emit(self, kernel: Kernel) -> Emitted:
        """The source of a kernel. Raises FusecError if its region cannot be one kernel here."""

    @abstractmethod
    def source(self, facts: Facts) -> Emitted:
        """A kernel as it was emitted, from its `dataclasses.asdict` after a way through JSON."""

    def rows(self, _region: Graph, _tokens: int) -> int:
        """How many rows of a step of several one thread block of a kernel takes; 0: it is not told.

        `_region` is what the kernel computes, canonical, `_tokens` the step's T.
        """
        return 0

    def variants(self, plans: Plans) -> tuple[LaunchPlan, ...]:
        """The plans for steps of several rows, those for the fewest first."""
        return (plans.prefill,)

    def size(self, _kernel: Kernel, _tokens: int) -> Size | None:
        """How a launch of it is run for a step of so many, where that is the kernel's to say."""
        return None

    def sized(self, plan: LaunchPlan) -> LaunchPlan:
        """The plan with the size of every launch, as the kernels' emitter lays them out."""
        sizes = {kernel.name: self.size(kernel, plan.tokens) for kernel in plan.kernels}
        launches = (
            replace(launch, size=sizes[launch.kernel], scalars=self.scalars)
            for launch in plan.launches
        )
        return replace(plan, launches=tuple(launches))

    def loop_kernels(self, _decode: LaunchPlan) -> dict[str, Emitted]:
        """Name -> kernel that no op of the plan stands for: a token loop's own."""
        return {}

    @abstractmethod
    def build(
        self, kernels: Mapping[str, Emitted], progress: Progress | None = None
    ) -> Mapping[str, Code]:
        """Compile every kernel, or take it from the cache. Returns what a folder keeps of each."""

    @abstractmethod
    def ready(self, kernels: Mapping[str, Emitted], progress: Progress | None = None) -> Ready:
        """The kernels as `session` and `engine` take them."""

    @abstractmethod
    def describe(
        self, kernels: Mapping[str, Emitted], built: Mapping[str, Any]
    ) -> dict[str, Facts]:
        """Name -> what a compiled folder has to know of a kernel. `built`: by `build`."""

    @abstractmethod
    def restore(self, described: Mapping[str, Facts], read: Callable[[str], bytes]) -> Ready:
        """What `ready` gives, from `describe` and the files of a folder that `read` gives."""

    def registers(self, _kernels: Mapping[str, Emitted]) -> dict[str, int]:
        """Name -> registers of a thread, of the kernels that were compiled before."""
        return {}

    def tuning(self, _asked: str) -> Tuning:
        """Measured shapes to compile with. `asked`: the target's name as the user gave it."""
        return Tuning()

    # --- running ---------------------------------------------------------------------------------

    @abstractmethod
    def session(
        self,
        plan: LaunchPlan,
        kernels: Ready,
        weights: Mapping[str, Array],
        progress: Progress | None = None,
        threads: int = 0,
    ) -> Session:
        """A plan of a graph built by hand, bound to memory."""

    @abstractmethod
    def engine(
        self,
        plans: Plans,
        kernels: Ready,
        model: Model,
        progress: Progress | None = None,
        threads: int = 0,
        *,
        l2: str = "auto",
        eager: bool = False,
        resident: bool = False,
    ) -> Engine:
        """A model ready to generate; `fusec.load` says what the options mean.

        Raises FusecError for what the target or the plan cannot do.
        """

    def threads(self, _given: int = 0) -> int | None:
        """The CPU threads that compute where `given` are asked for; None where they do not."""
        return None

    def is_here(self) -> bool:
        """Whether this machine can run it."""
        return True

    def machine(self) -> Facts:
        """The hardware under this target: its `gpu` and `driver`, None where there are none."""
        return {"gpu": None, "driver": None}
