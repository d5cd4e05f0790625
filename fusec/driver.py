"""The stages tied together: a model file or a graph in; stages, plan, kernels and an engine out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusec.codegen import targets
from fusec.codegen.cuda import tuning as tunings
from fusec.codegen.cuda.toolchain import Cubin
from fusec.codegen.cuda.tuning import Tuning
from fusec.codegen.kernel import KernelSource
from fusec.codegen.targets import AnyKernel
from fusec.cores import cores
from fusec.errors import FusecError
from fusec.ir import gpus
from fusec.ir.gpu import Gpu
from fusec.ir.graph import Graph
from fusec.ir.plan import LaunchPlan
from fusec.models.model import Model
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap
from fusec.passes.pipeline import OVERLAPPED, Stage, passes_of, run_passes
from fusec.passes.prefetch import prefetch
from fusec.passes.rule import Rule
from fusec.runtime.cuda.window import check_mode
from fusec.runtime.engine import Engine
from fusec.runtime.session import Session

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]

DEFAULT_CONTEXT = 512
MOST_BY_DEFAULT = 64  # threads: a launch waits for all, and more have never been measured


def default_level(target: str) -> int:
    """The level that is meant where none is given: 3 on a GPU, 2 on the CPU.

    What -O3 saves are launches and waits between them, which cost a CPU next to nothing.
    """
    return 3 if targets.get(target).is_cuda else 2


@dataclass(frozen=True)
class Options:
    """How to compile. `rules` are run after the level's own; `disable` names rules to leave out.

    `tuning`: shapes of kernels that were measured, for a GPU.
    """

    target: str
    level: int
    rules: tuple[Rule, ...] = ()
    disable: tuple[str, ...] = ()
    stop_after: str | None = None
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class Compiled:
    """A compiled graph: every stage it went through, its launch plan, its kernels' sources.

    `plan` steps the graph's own T (1 for a model: decode). For a model, `prefill` is the same
    pipeline's plan for steps of several tokens; for a graph built by hand it is None.
    """

    options: Options
    stages: tuple[Stage, ...]
    plan: LaunchPlan
    prefill: LaunchPlan | None = None
    model: Model | None = None
    context: int = 0
    kv: str = "f16"

    @property
    def graph(self) -> Graph:
        """The graph after the last stage."""
        return self.stages[-1].graph

    @property
    def is_cuda(self) -> bool:
        """Whether this is for an NVIDIA GPU."""
        return targets.get(self.options.target).is_cuda

    @cached_property
    def kernels(self) -> dict[str, AnyKernel]:
        """Name -> source of every kernel of the plans, and of a GPU's token loop."""
        emit = targets.get(self.options.target).emit
        plans = [p for p in (self.plan, self.prefill) if p is not None]
        unique = {k.name: k for plan in plans for k in plan.kernels}
        found = {name: emit(kernel) for name, kernel in unique.items()}
        if self.is_cuda:
            from fusec.gpu import control_kernels

            found |= control_kernels(self.plan)
        return found

    def build(self, progress: Progress | None = None) -> dict[str, Cubin]:
        """Compile every kernel, or take it from the cache. Returns a CUDA target's cubins."""
        if self.is_cuda:
            from fusec.gpu import build

            return build(self.kernels, self.options.target, progress)
        from fusec.codegen.cpu.build import build as build_cpu

        build_cpu(tuple(cpu_kernels(self.kernels).values()), progress)
        return {}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write plan, sources, stage dumps and DOT to a folder, which `fusec run` takes."""
        from fusec.artifact import save

        return save(self, Path(folder))

    def _repr_html_(self) -> str:
        """What a notebook shows: the stages and the plan."""
        from fusec.pictures import brief, of_compiled

        return brief(of_compiled(self))

    def session(
        self, weights: Mapping[str, Array], progress: Progress | None = None, threads: int = 0
    ) -> Session:
        """The plan bound to memory, for a graph built by hand.

        `weights` holds, by name without '@', float32 arrays for f32 weights and raw GGUF blocks
        (uint8[rows, row bytes]) for quantised ones. On the CPU they are read where they lie.
        Raises FusecError naming a weight that is missing or of another type or shape.
        """
        if self.is_cuda:
            from fusec import gpu

            kernels = gpu.executables(self.kernels, self.build(progress))
            return gpu.session(self.plan, kernels, weights)
        (session,) = bind(
            cpu_kernels(self.kernels),
            (self.plan,),
            weights.__getitem__,
            progress,
            threads,
        )
        return session

    def engine(
        self,
        progress: Progress | None = None,
        threads: int = 0,
        *,
        l2: str = "auto",
        eager: bool = False,
    ) -> Engine:
        """The model ready to generate; `load` says what the options mean.

        Raises FusecError for a graph that came without a model.
        """
        check_mode(l2)
        if self.model is None or self.prefill is None:
            raise FusecError(f"{self.plan.name} was compiled from a graph: use session(weights)")
        if self.is_cuda:
            from fusec import gpu

            kernels = gpu.executables(self.kernels, self.build(progress))
            return gpu.engine(self.plan, kernels, self.model, l2=l2, eager=eager)
        plans = (self.plan, self.prefill, self.prefill.only(set()))
        sessions = bind(cpu_kernels(self.kernels), plans, self.model.raw, progress, threads)
        return Engine(*sessions, context=self.context, stop=self.model.stop_ids)


def compile(
    source: str | os.PathLike[str] | Graph,
    *,
    target: str = "cpu",
    level: int | None = None,
    rules: Iterable[Rule] = (),
    context: int | None = None,
    kv: str = "f16",
    disable: Iterable[str] = (),
    stop_after: str | None = None,
    observe: Callable[[Stage], None] | None = None,
    tuning: Tuning | None = None,
) -> Compiled:
    """Compile a GGUF file's decode graph, or a graph built by hand.

    `level`: default 3 on a GPU, 2 on the CPU. `context`: positions of the KV cache (default: 512,
    or what the model was trained for if that is less); `kv`: its element type, f16 or f32; both are
    for model files. `observe` is handed every stage as it is done. `tuning`: shapes of a GPU's
    kernels; by default those that `fusec tune` chose for this machine's GPU, if `target` asks for
    that one, or what FUSEC_TUNING says. Raises FusecError for whatever is wrong with the input.
    """
    known = targets.get(target)  # "native" becomes the architecture of this machine's GPU
    level = default_level(known.name) if level is None else level
    if tuning is None:
        tuning = tunings.wanted(known.name, targets.gpu_of(target)) if known.is_cuda else Tuning()
    options = Options(known.name, level, tuple(rules), tuple(disable), stop_after, tuning)
    if isinstance(source, Graph):
        stages, plan = compile_graph(source, options, observe)
        return Compiled(options, stages, plan)
    model = Model.open(Path(source))
    context = model.check_context(context, DEFAULT_CONTEXT)
    stages, plan = compile_graph(model.graph(tokens=1, context=context, kv=kv), options, observe)
    wide, prefill_plan = min(known.prefill_tokens, context), plan
    if wide > 1:
        prefill = model.graph(tokens=wide, context=context, kv=kv)
        _, prefill_plan = compile_graph(prefill, options)
    return Compiled(options, stages, plan, prefill_plan, model, context, kv)


def load(
    path: str | os.PathLike[str],
    target: str = "cpu",
    level: int | None = None,
    context: int | None = None,
    kv: str = "f16",
    *,
    rules: Iterable[Rule] = (),
    progress: Progress | None = None,
    threads: int = 0,
    l2: str = "auto",
    eager: bool = False,
) -> Engine:
    """An engine for a GGUF file: `compile(path, ...)`, kernels built, weights bound.

    `threads`: of the CPU target; 0 takes FUSEC_THREADS or the cores this process may use.
    `l2` and `eager` are for a GPU: whether the layers' weights are asked to stay in its L2 cache or
    are fetched ahead (off, window, prefetch, auto), and whether kernels are launched one by one
    instead of as a graph.
    """
    compiled = compile(path, target=target, level=level, context=context, kv=kv, rules=rules)
    return compiled.engine(progress, threads, l2=l2, eager=eager)


def compile_graph(
    graph: Graph,
    options: Options,
    observe: Callable[[Stage], None] | None = None,
    gpu: Gpu | None = None,
) -> tuple[tuple[Stage, ...], LaunchPlan]:
    """Every stage of a graph, and its plan. `gpu`: the one to predict for, or the target's own."""
    limits = targets.get(options.target).limits
    tokens = max((v.shape[0] for v in graph.inputs), default=1)
    if limits.most_tokens is not None and tokens > limits.most_tokens:
        raise FusecError(
            f"graph {graph.name}: expected T up to {limits.most_tokens} on {limits.name}, whose "
            f"kernels take no more tokens a step, found T = {tokens}"
        )
    limits = replace(limits, gpu=gpu or gpus.for_arch(limits.name))
    passes = passes_of(options.level, options.rules, options.disable)
    stages = run_passes(graph, passes, limits, stop_after=options.stop_after, observe=observe)
    plan = lower(stages[-1].graph, options.target, options.level)
    if options.level >= OVERLAPPED and limits.overlaps:
        plan = prefetch(overlap(plan))
    return stages, targets.get(options.target).sized(options.tuning.apply(plan))


def bind(
    kernels: Mapping[str, KernelSource],
    plans: tuple[LaunchPlan, ...],
    weight: Callable[[str], Array],
    progress: Progress | None,
    threads: int,
) -> tuple[Session, ...]:
    """Sessions for several plans over the same kernels, states and threads.

    Closing one ends the threads, and so all of them.
    """
    from fusec.codegen.cpu.build import build, build_team
    from fusec.runtime.cpu.session import CpuSession, allocate_states
    from fusec.runtime.cpu.team import Team, check_threads

    threads = check_threads(threads) if threads else default_threads()
    built = build(tuple(kernels.values()), progress)
    addresses = {name: functions["kernel"] for name, functions in built.items()}
    scratch = {name: kernel.scratch_bytes for name, kernel in kernels.items()}
    team, states = Team(threads, build_team()), allocate_states(plans[0])
    try:
        return tuple(CpuSession(plan, addresses, scratch, weight, team, states) for plan in plans)
    except BaseException:
        team.close()
        raise


def cpu_kernels(kernels: Mapping[str, AnyKernel]) -> dict[str, KernelSource]:
    """The kernels that are for the CPU."""
    return {name: k for name, k in kernels.items() if isinstance(k, KernelSource)}


def default_threads() -> int:
    """FUSEC_THREADS, or the cores this process may use; of very many, MOST_BY_DEFAULT."""
    from fusec.runtime.cpu.team import check_threads

    given = os.environ.get("FUSEC_THREADS", "")
    if given and (not given.isdigit() or given == "0"):
        raise FusecError(f"FUSEC_THREADS: expected a number of threads, found '{given}'")
    if given:
        return check_threads(int(given), "FUSEC_THREADS")
    return min(cores(), MOST_BY_DEFAULT)


def at_level(compiled: Compiled, level: int) -> Compiled:
    """The same model compiled at another level."""
    assert compiled.model is not None
    return compile(
        compiled.model.file.path,
        target=compiled.options.target,
        level=level,
        context=compiled.context,
        kv=compiled.kv,
        rules=compiled.options.rules,
        tuning=compiled.options.tuning,
    )
