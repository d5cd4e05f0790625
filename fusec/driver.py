"""The stages tied together: a model file or a graph in; stages, plan, kernels and an engine out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fusec import artifact, backends, pictures
from fusec.backends.base import Progress
from fusec.codegen.cuda.tuning import Tuning
from fusec.compiled import Compilation, Options
from fusec.errors import FusecError
from fusec.ir.gpu import Gpu
from fusec.ir.graph import Graph
from fusec.ir.plan import LaunchPlan
from fusec.models.model import Model
from fusec.passes.lower import lower
from fusec.passes.overlap import overlap
from fusec.passes.pipeline import OVERLAPPED, Stage, passes_of, run_passes
from fusec.passes.prefetch import prefetch
from fusec.passes.rule import Rule
from fusec.runtime.engine import Engine

DEFAULT_CONTEXT = 512


@dataclass(frozen=True)
class Compiled(Compilation):
    """A compilation, with what shows it and what keeps it."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write plan, sources, stage dumps and DOT to a folder, which `fusec run` takes."""
        return artifact.save(self, Path(folder))

    def _repr_html_(self) -> str:
        """What a notebook shows: the stages and the plan."""
        return pictures.brief(pictures.of_compiled(self))


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
    known = backends.get(target)  # "native" becomes the architecture of this machine's GPU
    level = known.level if level is None else level
    if tuning is None:
        tuning = known.tuning(target)
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
    backend = backends.get(options.target)
    limits = backend.limits if gpu is None else replace(backend.limits, gpu=gpu)
    tokens = max((v.shape[0] for v in graph.inputs), default=1)
    if limits.most_tokens is not None and tokens > limits.most_tokens:
        raise FusecError(
            f"graph {graph.name}: expected T up to {limits.most_tokens} on {limits.name}, whose "
            f"kernels take no more tokens a step, found T = {tokens}"
        )
    passes = passes_of(options.level, options.rules, options.disable)
    stages = run_passes(graph, passes, limits, stop_after=options.stop_after, observe=observe)
    plan = lower(stages[-1].graph, options.target, options.level)
    if options.level >= OVERLAPPED and limits.overlaps:
        plan = prefetch(overlap(plan))
    return stages, backend.sized(options.tuning.apply(plan))
