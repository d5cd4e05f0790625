"""Intermediate values as outputs of the graph, with everything merged as it would be without them.

A value that a launch writes to memory anyway becomes an output where it is. One that lives and dies
inside a kernel is computed once more behind everything else, from what is in memory:

    %a, %r = fused sum_norm_matvec(%x, ...)      =>      the same
                                                         %n = rms_norm(%a, @g)

The numbers contract makes the second computation equal the first to the last bit. So asking for a
value changes no byte of any other, and costs launches only where no launch has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fusec.arguments import none_of
from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.verify import verify
from fusec.passes.pipeline import Stage

NAME = "outputs"
"""Of the stage, and of the group of its launches."""


def wanted(graph: Graph, patterns: Iterable[str]) -> tuple[str, ...]:
    """Names, with '%', of the values that patterns such as `blk.*.ffn_residual` mean.

    `graph` is the decode graph, whose order they have. `*`, `?` and `[]` are those of a shell.
    Raises FusecError for a pattern that no value of the graph has as its name.
    """
    names = [v.name[1:] for node in graph.nodes for v in node.outputs if not v.is_state]
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise FusecError(f"outputs: expected names of values, found {pattern!r}")
        found = [name for name in names if fnmatchcase(name, pattern.removeprefix("%"))]
        if not found:
            shows = "outputs: the graph (fusec inspect --stage decode-graph shows it) has no value"
            raise none_of(shows, pattern, names)
        chosen |= set(found)
    return tuple(f"%{name}" for name in names if name in chosen)


def give_out(stages: Sequence[Stage], patterns: Iterable[str]) -> Stage:
    """A stage behind all others whose graph has these values among its outputs.

    What has to be computed once more comes last. Raises FusecError as `wanted` does.
    """
    start = time.perf_counter()
    graph = stages[-1].graph
    names = wanted(stages[0].graph, patterns)
    extra = _Extra(graph, [stage.graph for stage in stages])
    values = [extra.value(name) for name in names]
    known = {value.name for value in graph.outputs}
    outputs = *graph.outputs, *(value for value in values if value.name not in known)
    after = replace(graph, nodes=(*graph.nodes, *extra.nodes), outputs=outputs)
    verify(after)
    ms = 1e3 * (time.perf_counter() - start)
    return Stage(NAME, after, len(graph.nodes), len(after.nodes), ms)


@dataclass
class _Extra:
    """The nodes that make values which `graph` hides, from those in its memory.

    `stages`: the graphs that led to it, in order. A hidden value is made as the last of them that
    knows it says.
    """

    graph: Graph
    stages: Sequence[Graph]

    def __post_init__(self) -> None:
        self.nodes: list[Node] = []
        self._there = {v.name: v for v in (*self.graph.inputs, *self.graph.states)}
        self._there |= {v.name: v for node in self.graph.nodes for v in node.outputs}
        self._makers: Mapping[str, Node] = {
            value.name: node
            for stage in self.stages
            for node in stage.walk()
            for value in node.outputs
        }
        self._placed = {value.name: value for value in self.graph.weights}

    def value(self, name: str) -> Value:
        """The value, made if it is not there."""
        if name not in self._there:
            self._make(self._makers[name])
        return self._there[name]

    def _make(self, node: Node) -> None:
        inputs = tuple(
            self._placed.get(v.name, v) if v.is_weight else self.value(v.name) for v in node.inputs
        )
        # another result of the same op may be in memory already
        outputs = tuple(
            replace(v, name=f"{v.name}.again") if v.name in self._there else v for v in node.outputs
        )
        self.nodes.append(replace(node, inputs=inputs, outputs=outputs))
        self._there |= {v.name: v for v in outputs}
