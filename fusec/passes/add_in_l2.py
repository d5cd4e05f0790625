"""Blocks add their partial sums to one vector, in L2, so that the next launch reads one.

    %k = fused norm_matvec(%x, ...)                 %k, %z.zeros = fused norm_matvec_clear(%x, ...)
    %z.parts = attention_project(%k, ...)    =>     %z.sums = fused attention_project_added(
                                                                  %k, ..., %z.zeros)
    %z = add_parts(%z.parts, %r)                    %z = add_parts(%z.sums, %r)

Parts are whole numbers of 2**-30, which add up to the same in any order (docs/numbers.md), so the
bytes stay. Sums are integers of 64 bits, in the memory of their zeros. The launch that makes what
the adding one reads writes them: it is complete before anybody adds, and it waits until all that
has used this memory is complete. So nothing is carried over from one step to the next, and where no
launch is in front, parts stay parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusec.ir.graph import Graph, Node, Value, attrs, outside
from fusec.ir.op_matvec import is_fixed
from fusec.ir.ops import kind_of, make, op, role_of
from fusec.ir.target import Target
from fusec.passes.fuse import Refusal
from fusec.passes.split import taken

MAKERS = ("attention_project", "matvec_parts")
CLEARING = ("rows", "parts")
"""Roles of kernels whose thread blocks can clear memory beside their work, and of heads those that
project: others take many rows of a step at once."""


@dataclass(frozen=True)
class AddInL2:
    """The pass. It runs behind all that looks for parts, or merges with who makes or reads them."""

    name: str = "add-in-l2"
    equation: str = "parts -> sum_parts | add_parts => clear_sums -> parts & add_into -> the same"

    def run(self, graph: Graph, target: Target) -> tuple[Graph, int, tuple[Refusal, ...]]:
        """The graph with every such sum in memory, of a target whose blocks make parts."""
        if target.column_sums is None:
            return graph, 0, ()
        change = _Change(graph)
        refused = []
        for node in graph.nodes:
            for parts in (n.outputs[0] for n in node.ops if n.op in MAKERS):
                front = change.clearing(node, parts)
                if isinstance(front, str):
                    refused.append(Refusal(self.equation, (node.name,), front))
                else:
                    change.add(node, parts, front)
        return change.made(), len(change.sums), tuple(refused)


class _Change:
    """What is made of a graph. `sums`: parts -> what they are added up in."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sums: dict[str, Value] = {}
        self.more: dict[str, list[Node]] = {}  # a node's name -> what it does besides

    def clearing(self, node: Node, parts: Value) -> Node | str:
        """The node that can write zeros for a node's parts, or the reason why they stay parts."""
        if parts.name in self.graph.needed:
            return f"{parts.name} is an output of the graph"
        readers = self._readers(parts)
        if other := next((n for n in readers if not op(n.op).adds_parts), None):
            return f"{parts.name} is read by {other.op} {other.name}, which adds no parts up"
        if not readers:
            return f"nobody reads {parts.name}"
        if readers[0].outputs[0].shape == parts.shape:
            return f"{parts.name} is one part: nothing is added to it"
        front = self._in_front(node)
        if isinstance(front, str):
            return front
        names = (_named(parts, "zeros"), _named(parts, "sums"))
        return next(
            (why for why in (taken(self.graph, "add_into", n) for n in names) if why), front
        )

    def add(self, node: Node, parts: Value, front: Node) -> None:
        """Let a node add its parts, and the one in front of it write the zeros."""
        n = self._readers(parts)[0].outputs[0].shape[-1]
        like = next(v for v in front.inputs if not (v.is_weight or v.is_state))
        like = self.sums.get(like.name, like)
        zeros = make("clear_sums", (like,), _named(parts, "zeros"), attrs(n=n))
        added = make("add_into", (zeros.outputs[0], parts), _named(parts, "sums"))
        self.more.setdefault(front.name, []).append(zeros)
        self.more.setdefault(node.name, []).append(added)
        self.sums[parts.name] = added.outputs[0]

    def made(self) -> Graph:
        """The graph with all of it."""
        if not self.sums:
            return self.graph
        return self.graph.replace_nodes(map(self._made, self.graph.nodes))

    def _readers(self, parts: Value) -> list[Node]:
        users = self.graph.users.get(parts.name, ())
        return [n for user in users for n in user.ops if parts in n.inputs]

    def _in_front(self, node: Node) -> Node | str:
        """The last launch that makes something of what a node reads; or why it cannot clear."""
        makers = [self.graph.producers.get(v.name) for v in node.inputs]
        there = [maker for maker in makers if maker is not None]
        if not there:
            return f"no launch in front of {node.name} could write zeros"
        front = max(there, key=lambda maker: self.graph.place[maker.name])
        projects = any(n.op in MAKERS for n in front.ops)
        clears = projects or role_of(front) in CLEARING
        if not clears or any(map(is_fixed, front.ops)):
            return f"{front.kind} {front.name} in front of it writes no zeros"
        return front

    def _made(self, node: Node) -> Node:
        """A node that reads sums where it read parts, and does what else it has to."""
        body = tuple(map(self._reading_sums, node.ops))
        more = tuple(self.more.get(node.name, ()))
        if not more and body == node.ops:
            return node
        if not more and not node.body:
            return body[0]
        gone = {v.name for n in more if n.op == "add_into" for v in n.inputs[1:]}
        made = (*body, *more)
        kept = {v.name for v in node.outputs if v.name not in gone}
        inputs, outputs = outside(made, kept | {n.name for n in more})
        return Node("fused", inputs, outputs, attrs(kind=kind_of(made)), made)

    def _reading_sums(self, node: Node) -> Node:
        if not op(node.op).adds_parts or node.inputs[0].name not in self.sums:
            return node
        given = attrs(parts=1) if "parts" in dict(node.attrs) else node.attrs
        return replace(node, inputs=(self.sums[node.inputs[0].name], *node.inputs[1:]), attrs=given)


def _named(parts: Value, what: str) -> str:
    return f"{parts.name.removesuffix('.parts')}.{what}"
