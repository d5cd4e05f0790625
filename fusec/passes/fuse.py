"""Applying one rule until nothing more matches."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph
from fusec.ir.target import Target
from fusec.passes.merge import merge
from fusec.passes.rule import Rule


@dataclass(frozen=True)
class Refusal:
    """A match that was not merged, and why."""

    rule: str
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Fuse:
    """The pass made of one rule: sweeps over the graph until a sweep merges nothing.

    A sweep merges all that it finds at once, so the time grows with the graph's size. `why` a level
    has it, in a sentence without its full stop.
    """

    rule: Rule
    why: str = ""

    @property
    def name(self) -> str:
        """`fuse-` and the rule's name: `fuse-epilogue`."""
        return f"fuse-{self.rule.name}"

    @property
    def about(self) -> str:
        """Why there is this pass, or else what its rule says of itself."""
        return self.why or self.rule.about

    @property
    def equation(self) -> str:
        """The rule's."""
        return self.rule.equation

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The fused graph, how often the rule was applied, and the last sweep's refusals."""
        hits = 0
        while True:
            refused, groups, taken = [], [], set[str]()
            for match, kept in self.rule.matches(graph):
                names = tuple(n.name for n in match)
                if taken & set(names):
                    continue  # for the next sweep, in which its nodes have changed
                if reason := self.rule.why_not(graph, match, kept, target):
                    refused.append(Refusal(self.rule.equation, names, reason))
                    continue
                groups.append((match, self.rule.kind_of(match)))
                taken |= set(names)
            if not groups:
                return graph, hits, tuple(refused)
            graph, merged = merge(graph, groups)
            hits += merged
