"""The levels: which fusions run in which order, and the loop that runs, checks and times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from fusec.errors import FusecError, unknown
from fusec.ir.graph import Graph
from fusec.ir.target import Target
from fusec.ir.verify import verify
from fusec.passes.add_in_l2 import AddInL2
from fusec.passes.factor_norms import FactorNorms
from fusec.passes.fix_vectors import FixVectors
from fusec.passes.fuse import Fuse, Refusal
from fusec.passes.group_experts import GroupExperts
from fusec.passes.place_weights import PlaceWeights
from fusec.passes.project_heads import ProjectHeads
from fusec.passes.project_rows import ProjectRows
from fusec.passes.rows_of_heads import RowsOfHeads
from fusec.passes.rule import Rule
from fusec.passes.rules import chain, epilogue, prologue, prologue_of_heads, siblings, stack
from fusec.passes.schedule import Schedule
from fusec.passes.split_argmax import SplitArgmax
from fusec.passes.split_attention import SplitAttention
from fusec.passes.split_products import SplitProducts
from fusec.writer import brief, count

Pass = (
    Fuse | AddInL2 | PlaceWeights | FactorNorms | GroupExperts | FixVectors | ProjectHeads
    | ProjectRows | RowsOfHeads | SplitArgmax | SplitAttention | SplitProducts | Schedule
)  # fmt: skip

NAIVE: tuple[Pass, ...] = (
    PlaceWeights(),  # what may share a kernel depends on it
    SplitProducts(),  # so that blocks may share a product's columns at some levels, not at others
    FactorNorms(),  # sums of squares and products wait for each other less
    GroupExperts(),  # so that many rows read an expert's matrices once
    FixVectors(),  # so that many rows are brought into fixed point once
)
PAIRED = (
    *NAIVE,
    Fuse(stack(), "QKV and gate/up read one vector: one launch reads it once"),
    Fuse(
        chain("chain-to-fixed", "vector", "fix", kept=True),
        "A norm and what brings it into fixed point: nobody else reads the norm",
    ),
    Fuse(
        prologue("prologue", "vector"),
        "A norm is cheaper made in every thread block of its reader than handed on through memory",
    ),
    Fuse(
        siblings("pairs", "pair", "maker"),
        "The rotations of query and key: launches of a few hundred elements are all overhead",
    ),
    Fuse(
        siblings("stores", "store", "reader"),
        "The cache writes of key and value: launches of a few hundred elements are all overhead",
    ),
    Fuse(
        chain("chain", "element", "element"),
        "Element-wise ops in a row, such as silu and mul: what is between never leaves registers",
    ),
)
FUSED = (
    *PAIRED,
    Fuse(
        epilogue("epilogue", "element"),
        "Bias, residual and SwiGLU: who owns a row of the product has its sum in a register",
    ),
    Fuse(
        siblings("vectors", "vector pair", "maker"),
        "Norms and rotations of query and key that read one product, behind biases too",
    ),
    Fuse(
        chain("chain-to-store", "vector element pair", "element pair store"),
        "The rotation of a key and its cache write: it is only ever read from the cache",
    ),
)
SPLIT = (
    *FUSED,
    Fuse(
        epilogue("epilogue-to-store", "pair store"),
        "Rotation and cache write behind QKV: a launch of a few hundred elements less",
    ),
    Fuse(
        prologue("prologue-kept", "vector element", kept=True),
        "A vector that others read too is sooner made in every thread block than handed on",
    ),
    SplitAttention(),  # one block a head leaves the GPU idle, and takes longer with every token
    ProjectHeads(),  # a launch is dearer than a few hundred rows in blocks that are there anyway
    Fuse(
        prologue_of_heads("prologue-of-heads", "vector element pair store"),
        "Norms of heads, rotations and cache writes: who attends with a head makes what it needs",
    ),
    ProjectRows(),  # the same: a cluster of blocks exchanges sooner than launches follow
    Fuse(
        prologue("prologue-of-parts", "vector element", kept=True),
        "What the passes in front split, partial sums and spans, is added up by who reads it",
    ),
    SplitArgmax(),  # one block reads a vocabulary's logits longer than all take to compare theirs
    Fuse(
        epilogue("epilogue-fold", "fold", kept=True),
        "The best logit of a thread block: who owns a row has its logit already",
    ),
)
DEEP = (
    *SPLIT,
    AddInL2(),  # one vector is sooner read than eight or nine, and all blocks of a launch read it
)
CLUSTERED = (
    *SPLIT,
    RowsOfHeads(),  # an exchange in a cluster is cheaper than a launch and a vector in memory
    AddInL2(),  # the same
)
LEVELS: dict[int, tuple[Pass, ...]] = {0: NAIVE, 1: PAIRED, 2: FUSED, 3: DEEP, 4: CLUSTERED}
LEVEL_NAMES = {0: "naive", 1: "paired", 2: "fused", 3: "deep", 4: "clustered"}
OVERLAPPED = 3
"""From this level on, launches start early where the target and `fusec.passes.overlap` allow."""
FIRST = "decode-graph"  # the name of the stage before any pass


@dataclass(frozen=True)
class Stage:
    """What one pass did: the graph after it, node counts, milliseconds, hits, refusals."""

    name: str
    graph: Graph
    before: int
    after: int
    ms: float
    equation: str = ""
    hits: int = 0
    refused: tuple[Refusal, ...] = ()

    def __repr__(self) -> str:
        merged = (
            f"{count(self.hits, 'hit')}, {len(self.refused):,} refused, " if self.equation else ""
        )
        nodes = f"{self.before:,} -> {count(self.after, 'node')}"
        return brief(self, f"{self.name}: {nodes}, {merged}{self.ms:.1f} ms")


def passes_of(
    level: int, rules: Iterable[Rule] = (), disable: Iterable[str] = ()
) -> tuple[Pass, ...]:
    """The passes of a level. `rules` are the user's own and run after the level's.

    `disable` names rules (`prologue`) or passes (`fuse-prologue`). Raises FusecError for an unknown
    level, an unknown rule to disable or an unknown kind in a pattern, naming the known.
    """
    check_levels([level])
    rules = tuple(rules)
    for rule in rules:
        if not isinstance(rule, Rule):
            raise FusecError(f"rules: expected fusec.Rule objects, found {type(rule).__name__}")
        rule.check(other.kind for other in rules)
    passes = (*LEVELS[level], *map(Fuse, rules))
    off = {name.removeprefix("fuse-") for name in disable}
    known = {name_of(p) for level_passes in LEVELS.values() for p in level_passes}
    known |= {name_of(p) for p in passes}
    for name in sorted(off - known):
        raise unknown("disable: no rule or pass", name, known)
    return (*(p for p in passes if name_of(p) not in off), Schedule())


def check_levels(levels: Iterable[int]) -> None:
    """Raise FusecError for a level that there is not."""
    for level in levels:
        if level not in LEVELS:
            raise FusecError(f"unknown level -O{level}: known are {', '.join(map(str, LEVELS))}")


def name_of(step: Pass | Stage) -> str:
    """How `disable` calls a pass: a rule's own name, and another pass's."""
    return step.name.removeprefix("fuse-")


def find_pass(name: str, known: Collection[str], what: str, where: str) -> str:
    """The pass that `name` means among the known: `fuse-chain` is also called by its rule, `chain`.

    Raises FusecError, with `what` in front of the name and `where` in front of those known.
    """
    for full in (name, f"fuse-{name}"):
        if full in known:
            return full
    raise FusecError(f"{what} '{name}'{where} {', '.join(known)}")


def why(name: str) -> str:
    """Why the levels have the fusion pass of that name; empty for any other."""
    return next((p.why for p in LEVELS[max(LEVELS)] if isinstance(p, Fuse) and p.name == name), "")


def run_passes(
    graph: Graph,
    passes: Iterable[Pass],
    target: Target,
    *,
    stop_after: str | None = None,
    observe: Callable[[Stage], None] | None = None,
) -> tuple[Stage, ...]:
    """Run passes in order; after each, verify the graph and hand the stage to `observe`.

    The first stage is the graph as it came. Raises FusecError naming the pass that broke the graph,
    or an unknown `stop_after`.
    """
    passes = tuple(passes)
    names = [FIRST, *(p.name for p in passes)]
    stop_after = stop_after and find_pass(stop_after, names, "no pass", " at this level: it runs")
    stages = [Stage(FIRST, graph, len(graph.nodes), len(graph.nodes), 0.0)]
    verify(graph)
    if observe:
        observe(stages[0])
    for step in passes:
        if stages[-1].name == stop_after:
            break
        before, start = stages[-1].graph, time.perf_counter()
        after, hits, refused = step.run(before, target)
        ms = 1e3 * (time.perf_counter() - start)
        try:
            if after is not before:
                verify(after)
        except FusecError as error:
            raise FusecError(f"pass {step.name} broke the graph: {error}") from error
        counts = len(before.nodes), len(after.nodes)
        stages.append(Stage(step.name, after, *counts, ms, step.equation, hits, refused))
        if observe:
            observe(stages[-1])
    return tuple(stages)
