"""What a kernel's PTX reads and writes of global memory, and in which order it can come to it.

Pointers are followed from the kernel's parameters through 64-bit registers, whichever way the
program takes; order is that of the control flow graph, so it holds on every path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

LABEL = re.compile(r"^(\$\w+):$")
PARAMETER = re.compile(r"ld\.param\.u64\s+(%rd\d+), \[\w+_param_(\d+)\];")
POINTER = re.compile(r"^\w+(?:\.\w+)*64\s+(%rd\d+), (.*);")
ACCESS = re.compile(r"(ld|st)\.global\S*\s.*?\[(%rd\d+)[^\]]*\]")
BRANCH = re.compile(r"^(@!?%p\d+ )?bra(?:\.uni)?\s+(\$\w+);")


@dataclass(frozen=True)
class Access:
    """A load or store; `parameters`: the kernel's pointers it may go through, by number."""

    index: int
    kind: str
    parameters: frozenset[int]


class Program:
    """One kernel's statements and the order between them."""

    def __init__(self, text: str) -> None:
        body = text[text.index("\n{") + 2 : text.rindex("}")]
        self.lines = [" ".join(line.split()) for line in body.splitlines()]
        self.flow = nx.DiGraph()
        labels = {m[1]: i for i, line in enumerate(self.lines) if (m := LABEL.match(line))}
        for i, line in enumerate(self.lines):
            self.flow.add_node(i)
            branch = BRANCH.match(line)
            if branch:
                self.flow.add_edge(i, labels[branch[2]])
            ends = line == "ret;" or (branch and not branch[1])
            if not ends and i + 1 < len(self.lines):
                self.flow.add_edge(i, i + 1)

    def find(self, statement: str) -> list[int]:
        """Numbers of the lines that are this statement."""
        return [i for i, line in enumerate(self.lines) if line == statement]

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """All of global memory's."""
        found = [(i, m) for i, line in enumerate(self.lines) for m in ACCESS.finditer(line)]
        return tuple(Access(i, m[1], frozenset(self._behind(m[2]))) for i, m in found)

    @cached_property
    def _pointers(self) -> nx.DiGraph:
        """Edges from a register, or a parameter's number, to the registers made of it."""
        graph = nx.DiGraph()
        for line in self.lines:
            if m := PARAMETER.match(line):
                graph.add_edge(int(m[2]), m[1])
            elif m := POINTER.match(line):
                graph.add_edges_from((source, m[1]) for source in re.findall(r"%rd\d+", m[2]))
        return graph

    def _behind(self, register: str) -> set[int]:
        return {n for n in nx.ancestors(self._pointers, register) if isinstance(n, int)}

    def dominates(self, first: int, other: int) -> bool:
        """Whether every path to `other` has gone through `first`."""
        at = other
        while at not in (first, 0):
            at = self._dominators[at]
        return at == first

    @cached_property
    def _dominators(self) -> dict[int, int]:
        return nx.immediate_dominators(self.flow, 0)

    def only_behind(self, statement: str, other: int) -> bool:
        """Whether every path to `other` has gone through one of these statements."""
        without = self.flow.copy()
        without.remove_nodes_from(set(self.find(statement)) - {other})
        return not nx.has_path(without, 0, other)

    def can_follow(self, first: int, other: int) -> bool:
        """Whether some path leads from `first` to `other`."""
        return other in nx.descendants(self.flow, first)
