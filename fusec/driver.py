"""The stages tied together: a model file or a graph in; stages, plan, kernels and an engine out.

Passes and pictures are imported where they are needed: a model that was compiled before runs
without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusec import backends, drafters, prepared
from fusec.arguments import mistaken, path, texts, whole
from fusec.backends.base import Plans, Progress
from fusec.codegen.cuda.tuning import Tuning
from fusec.compiled import Compilation, Options
from fusec.errors import FusecError
from fusec.ir.gpu import Gpu
from fusec.ir.graph import Graph
from fusec.ir.plan import LaunchPlan
from fusec.ir.target import Target
from fusec.models.model import Model
from fusec.runtime.cuda.window import check_mode
from fusec.runtime.drafting import MOST_DRAFTED, Drafter
from fusec.runtime.engine import Engine

if TYPE_CHECKING:
    from fusec.passes.pipeline import Stage
    from fusec.passes.rule import Rule

DEFAULT_CONTEXT = 512
DEFAULT_KV = "f16"
MODEL = "a GGUF file, the name of a model, or an opened Model"


@dataclass(frozen=True, repr=False)
class Compiled(Compilation):
    """A compilation, with what shows it and what keeps it."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write plan, sources, stage dumps and DOT to a folder, which `fusec run` takes."""
        from fusec import artifact

        return artifact.save(self, path("folder", folder, "a folder"))

    def _repr_html_(self) -> str:
        """What a notebook shows: the stages and the plan."""
        from fusec import pictures

        return pictures.brief(pictures.of_compiled(self))


def compile(
    source: str | os.PathLike[str] | Model | Graph,
    *,
    target: str = "cpu",
    level: int | None = None,
    rules: Iterable[Rule] = (),
    context: int | None = None,
    kv: str = DEFAULT_KV,
    disable: Iterable[str] = (),
    stop_after: str | None = None,
    observe: Callable[[Stage], None] | None = None,
    tuning: Tuning | None = None,
    width: int = 1,
    outputs: Iterable[str] = (),
) -> Compiled:
    """Compile the decode graph of a GGUF file (or a model's name), or a graph built by hand.

    `level`: default 3 on a GPU, 2 on the CPU. `context`: positions of the KV cache (default: 512,
    or what the model was trained for if that is less); `kv`: its element type, f16 or f32; both are
    for model files, as is `width`: how many rows a step takes, for stages and a plan to look at; an
    engine makes its own for prompts. `observe` is handed every stage as it is done. `tuning`:
    shapes of a GPU's kernels; by default those that `fusec tune` chose for this machine's GPU, if
    `target` asks for that one, or what FUSEC_TUNING says. `outputs`: names of values to give out
    beside the graph's own outputs, as `load` has it. Raises FusecError for whatever is wrong
    with the input.
    """
    options = options_of(target, level, rules, disable, stop_after, tuning, outputs)
    width = whole("width", width, "a number of rows")
    if isinstance(source, Graph):
        _check_graph_options(source, context, kv, width)
        stages, plan = compile_graph(source, options, observe)
        return Compiled(options, stages, plan)
    model = _opened(source, f"{MODEL}, or a Graph")
    context = model.check_context(context, DEFAULT_CONTEXT)
    if width != 1:
        if not 1 <= width <= context:
            raise FusecError(
                f"width: expected rows from 1 to the context, {context}, found {width}"
            )
        stages, plan = compile_graph(
            model.graph(tokens=width, context=context, kv=kv), options, observe
        )
        return Compiled(options, stages, plan, context=context, kv=kv)
    graphs = graphs_of(model, options, context, kv)
    return _compile_model(model, graphs, options, context, kv, observe)


def load(
    path: str | os.PathLike[str] | Model,
    target: str = "cpu",
    level: int | None = None,
    context: int | None = None,
    kv: str = DEFAULT_KV,
    *,
    rules: Iterable[Rule] = (),
    disable: Iterable[str] = (),
    progress: Progress | None = None,
    threads: int = 0,
    l2: str = "auto",
    eager: bool = False,
    resident: bool = False,
    outputs: Iterable[str] = (),
    draft: str | os.PathLike[str] | Model = "off",
    draft_max: int = MOST_DRAFTED,
) -> Engine:
    """An engine for a model: compiled, kernels built, weights bound. Close it, or use `with`.

        with fusec.load("demo") as engine:
            print(engine.generate("Once upon a time", 40))

    What was compiled before with the same fusec, for the same graph, is taken from the cache.

    - `path`: a GGUF file, a name ("demo", "smollm2": see `fusec.known_models`; "hf:OWNER/REPO"),
      or an opened `Model`. A model that is not here yet is fetched.
    - `target`: "cpu", "native" (this machine's GPU), or a GPU architecture such as "sm_90a".
    - `level`: how much is merged, 0 to 4; by default 3 on a GPU and 2 on the CPU. All give the same
      bytes.
    - `context`: positions of the KV cache, prompt and new tokens together, up to what the model was
      trained for; by default 512, or fewer where it was trained for fewer.
    - `kv`: element type of the KV cache, "f16" or "f32".
    - `rules`: `fusec.Rule`s of the caller's own, which run behind the level's.
    - `disable`: names of the level's rules and passes to leave out, such as "epilogue".
    - `outputs`: names of values of the decode graph that `Engine.trace` gives beside the logits.
      "blk.*.ffn_residual" is the hidden state behind every layer; `*`, `?` and `[]` are a shell's.
    - `draft`: guess tokens and check several in one step, which changes no token (see
      docs/drafting.md): "off", "auto", "suffix", "recycle", "mtp", or a smaller model of the same
      vocabulary, as `path` names it. `draft_max`: how many a step checks at most.
    - `progress`: is called with the name of each kernel that has been compiled.
    - `threads`: of the CPU; 0 takes FUSEC_THREADS, or the cores that this process may use.
    - `l2`: whether a GPU is asked to keep the layers' weights in its L2 cache ("window"), has them
      fetched ahead ("prefetch"), neither ("off"), or what suits it ("auto").
    - `eager`: launch a GPU's kernels one by one instead of as a graph: slower, to compare.
    - `resident`: make up to 256 tokens in one launch of a GPU, whose blocks wait for one another;
      for `level` 3 and 4, greedy tokens, and nothing drafted (see docs/resident.md).

    Raises FusecError, which names what was expected and what was found, for a file that cannot be
    read, a model that is not supported, and an argument out of range.
    """
    check_mode(l2)
    drafters.check_draft_max(draft_max)
    if resident and (eager or draft != "off"):
        other = "eager launches" if eager else "drafted tokens (--draft)"
        raise FusecError(f"a resident kernel (--resident) and {other}: expected one of the two")
    model = _opened(path, MODEL)
    names = texts("outputs", outputs, "names of values")
    names = tuple(dict.fromkeys((*names, *drafters.draft_outputs(draft, model))))
    options = options_of(target, level, rules, disable, outputs=names)
    context = model.check_context(context, DEFAULT_CONTEXT)
    how: dict[str, Any] = {"progress": progress, "threads": threads, "l2": l2}
    drafter = drafter_of(draft, model, context, target=target, kv=kv, eager=eager, **how)
    graphs = graphs_of(model, options, context, kv)
    entry = prepared.entry_of(graphs, options)
    found = prepared.find(entry, options.target) if entry else None
    if found is None:
        found = _compile_model(model, graphs, options, context, kv).prepared
        if entry:
            prepared.keep(entry, found)
    engine = found.engine(model, progress, threads, l2=l2, eager=eager, resident=resident)
    engine.drafter, engine.draft_max = drafter, draft_max
    return engine


def drafter_of(
    draft: str | os.PathLike[str] | Model,
    model: Model,
    context: int,
    *,
    hidden: bool = True,
    **options: Any,
) -> Drafter | None:
    """What `draft` means to `load`: see `fusec.drafters`. `options`: to load a draft model with."""
    how = partial(load, **options)
    return drafters.drafter_of(draft, model, how, context, hidden=hidden)


def _opened(source: str | os.PathLike[str] | Model, wanted: str) -> Model:
    """A model. Raises FusecError for what names none."""
    return source if isinstance(source, Model) else Model.open(path("model", source, wanted))


def _check_graph_options(graph: Graph, context: int | None, kv: str, width: int) -> None:
    """Raise FusecError for options of model files: a graph already has rows, states and types."""
    given = {"context": context, "kv": kv, "width": width}
    usual = {"context": None, "kv": DEFAULT_KV, "width": 1}
    for name, value in given.items():
        if value != usual[name]:
            raise FusecError(
                f"graph {graph.name}: {name}={value!r} is for model files: a graph built by hand "
                f"has it in the shapes of its inputs and states"
            )


def _compile_model(
    model: Model,
    graphs: Sequence[Graph],
    options: Options,
    context: int,
    kv: str,
    observe: Callable[[Stage], None] | None = None,
) -> Compiled:
    """A model compiled. `graphs`: see `graphs_of`."""
    decode, *wider = graphs
    stages, plan = compile_graph(decode, options, observe)

    def widen() -> Plans:
        several = [compile_graph(graph, options)[1] for graph in wider]
        return Plans(plan, several[-1] if several else plan, tuple(several[:-1]))

    return Compiled(options, stages, plan, widen, model, context, kv)


def options_of(
    target: str,
    level: int | None = None,
    rules: Iterable[Rule] = (),
    disable: Iterable[str] = (),
    stop_after: str | None = None,
    tuning: Tuning | None = None,
    outputs: Iterable[str] = (),
) -> Options:
    """The options with their defaults; "native" becomes the architecture of this machine's GPU.

    Raises FusecError for one of another type than `compile` says.
    """
    known = backends.get(target)
    if tuning is None:
        tuning = known.tuning(target)
    if not isinstance(tuning, Tuning):
        raise mistaken("tuning", "a fusec Tuning", tuning)
    level = known.level if level is None else whole("level", level)
    if not isinstance(rules, Iterable):
        raise mistaken("rules", "a list of fusec.Rule objects", rules)
    off = texts("disable", disable, "names of rules and passes")
    names = texts("outputs", outputs, "names of values")
    return Options(known.name, level, tuple(rules), off, stop_after, tuning, names)


def graphs_of(model: Model, options: Options, context: int, kv: str) -> tuple[Graph, ...]:
    """What steps compute, those of the fewest tokens first: decode, of some, of a prompt.

    There is one graph for those that take as many tokens.
    """
    backend = backends.get(options.target)
    most = (1, *backend.between_tokens, backend.prefill_tokens)
    widths = {min(tokens, context) for tokens in most}
    return tuple(model.graph(tokens=t, context=context, kv=kv) for t in sorted(widths))


def compile_graph(
    graph: Graph,
    options: Options,
    observe: Callable[[Stage], None] | None = None,
    gpu: Gpu | None = None,
) -> tuple[tuple[Stage, ...], LaunchPlan]:
    """Every stage of a graph, and its plan. `gpu`: the one to predict for, or the target's own."""
    from fusec.passes.give_out import give_out
    from fusec.passes.pipeline import passes_of, run_passes

    passes = passes_of(options.level, options.rules, options.disable)
    limits = limits_of(options, gpu)
    stages = run_passes(graph, passes, limits, stop_after=options.stop_after, observe=observe)
    extra = frozenset[str]()
    if options.outputs and options.stop_after is None:
        before = frozenset(stages[-1].graph.place)
        stages = (*stages, give_out(stages, options.outputs))
        extra = frozenset(stages[-1].graph.place) - before
        if observe:
            observe(stages[-1])
    return stages, plan_of(stages[-1].graph, options, limits, extra)


def limits_of(options: Options, gpu: Gpu | None = None) -> Target:
    """What passes are told of the target. `gpu`: the one to predict for, or the target's own."""
    limits = backends.get(options.target).limits
    return limits if gpu is None else replace(limits, gpu=gpu)


def plan_of(
    graph: Graph, options: Options, limits: Target, extra: frozenset[str] = frozenset()
) -> LaunchPlan:
    """The plan of a graph that every pass has seen. `extra`: see `fusec.passes.lower.lower`."""
    from fusec.passes.lower import lower
    from fusec.passes.overlap import overlap
    from fusec.passes.pipeline import OVERLAPPED
    from fusec.passes.prefetch import prefetch

    backend = backends.get(options.target)
    plan = lower(graph, options.target, options.level, backend.rows, extra)
    if options.level >= OVERLAPPED and limits.overlaps:
        plan = prefetch(overlap(plan))
    return backend.sized(options.tuning.apply(plan))
