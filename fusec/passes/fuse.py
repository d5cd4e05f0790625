"""Applying one rule until nothing more matches."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.ir.graph import Graph
from fusec.ir.target import Target
from fusec.passes.rule import Rule, merge


@dataclass(frozen=True)
class Refusal:
    """A match that was not merged, and why."""

    rule: str
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Fuse:
    """The pass made of one rule: sweeps over the graph until a sweep merges nothing."""

    rule: Rule

    @property
    def name(self) -> str:
        """Kebab-case, after the kind of node the rule makes."""
        return f"fuse-{self.rule.name}"

    @property
    def equation(self) -> str:
        """The rule's."""
        return self.rule.equation

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The fused graph, how often the rule was applied, and the last sweep's refusals."""
        hits = 0
        while True:
            refused = []
            merged = 0
            for match in tuple(self.rule.matches(graph)):
                if any(graph.producers.get(node.name) is not node for node in match):
                    continue  # an earlier match of this sweep took one of its nodes
                reason = self.rule.why_not(graph, match, target)
                if reason:
                    names = tuple(n.name for n in match)
                    refused.append(Refusal(self.rule.equation, names, reason))
                    continue
                graph = merge(graph, match, self.rule.kind)
                merged += 1
            hits += merged
            if not merged:
                return graph, hits, tuple(refused)
