"""The graph: values, nodes, and the order they run in.

The printed form, `str(graph)`, which `fusec.ir.text` reads back:

    graph    := 'graph' NAME '(' values ')' '{' state* node* 'return' names '}'
    state    := 'state' value
    node     := values '=' op
    op       := OPNAME '(' operands ')' [attrs]
              | 'fused' KIND '(' operands ')' '{' node* '}'
    operands := value or name, ...          a weight is written with its type, the rest by name
    values   := value, ...
    value    := name ':' DTYPE ['.' LAYOUT] '[' INT, ... ']'
    name     := '%'WORD activation | '$'WORD state | '@'WORD weight
    attrs    := '{' KEY '=' (INT | FLOAT | WORD), ... '}'

Everything is frozen: a pass returns a new graph. A weight keeps its GGUF name. State (the KV cache)
is threaded as values, `$k` -> `$k'`, so every dependency is an edge. The leading axis of an
activation is T, the tokens of one step. A fused node carries its body, the nodes it replaced,
under their own names; its inputs and outputs are those of the body seen from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from fusec.ir.dtypes import dtype
from fusec.writer import brief, count

if TYPE_CHECKING:
    import networkx as nx

Attr = int | float | str
LAYER = re.compile(r"\bblk\.(\d+)\.")


@dataclass(frozen=True)
class Value:
    """One tensor: `%activation`, `$state` or `@weight`, an element type and a shape.

    `layout`: how a weight's bytes lie in the target's memory (see `fusec.passes.place_weights`);
    empty where they lie as in the model file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self.type}")

    @property
    def is_weight(self) -> bool:
        """Whether this is a constant of the model file."""
        return self.name.startswith("@")

    @property
    def is_state(self) -> bool:
        """Whether this is (a version of) memory kept between steps."""
        return self.name.startswith("$")

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return dtype(self.dtype).nbytes(self.shape)

    @property
    def type(self) -> str:
        """The type as printed: `f32[1, 576]`, `q4_k.tiles[2048, 8192]`."""
        kind = f"{self.dtype}.{self.layout}" if self.layout else self.dtype
        return f"{kind}[{', '.join(map(str, self.shape))}]"

    @property
    def buffer(self) -> str:
        """Name of the memory behind the value: every version of a state is one buffer."""
        return self.name.rstrip("'")


@dataclass(frozen=True)
class Node:
    """One computation. Its name is its first output's. `body` is empty unless `op` is 'fused'."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: tuple[tuple[str, Attr], ...] = ()
    body: tuple[Node, ...] = ()

    def __repr__(self) -> str:
        made = ", ".join(f"{v.name}: {v.type}" for v in self.outputs)
        read = ", ".join(v.name for v in self.inputs)
        inside = f" of {count(len(self.body), 'op')} " if self.body else ""
        return brief(self, f"{made} = {self.kind}{inside}({read})")

    @property
    def name(self) -> str:
        """The first output's name."""
        return self.outputs[0].name

    @property
    def kind(self) -> str:
        """What rules and reports call this node: the op, or a fused node's kind."""
        return str(self["kind"]) if self.op == "fused" else self.op

    def __getitem__(self, key: str) -> Attr:
        return dict(self.attrs)[key]

    def get(self, key: str, default: Attr) -> Attr:
        """An attribute, or `default` where the node does not have it."""
        return dict(self.attrs).get(key, default)

    @property
    def ops(self) -> tuple[Node, ...]:
        """The plain nodes computed here: the body, or the node itself."""
        return self.body or (self,)

    @property
    def weights(self) -> tuple[Value, ...]:
        """The weights read, in order."""
        return tuple(v for v in self.inputs if v.is_weight)

    @property
    def matrices(self) -> tuple[Value, ...]:
        """Those that are no vectors."""
        return tuple(v for v in self.weights if len(v.shape) > 1)

    @property
    def region(self) -> Graph:
        """This node as a graph of its own: what a kernel computes, what the reference runs."""
        inputs = tuple(v for v in self.inputs if not (v.is_weight or v.is_state))
        states = tuple(v for v in self.inputs if v.is_state)
        return Graph(self.kind, inputs, states, self.ops, self.outputs)

    @property
    def layer(self) -> int | None:
        """The transformer layer, read off the GGUF-style `blk.N.` in the names; None outside.

        Where there are matrices, it is theirs: a fused node may begin with the sum that ends the
        layer in front.
        """
        for value in self.matrices or (*self.outputs, *self.weights):
            if found := LAYER.search(value.name):
                return int(found[1])
        return None


def attrs(**items: Attr) -> tuple[tuple[str, Attr], ...]:
    """Attributes in their canonical order (by name)."""
    return tuple(sorted(items.items()))


def outside(
    nodes: Iterable[Node], needed: Iterable[str]
) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Inputs and outputs of a set of nodes seen from outside.

    `needed` names the values somebody outside reads. Order is that of first use and of production.
    """
    nodes, wanted = tuple(nodes), set(needed)
    made = {v.name: v for n in nodes for v in n.outputs}
    read = {v.name: v for n in nodes for v in n.inputs if v.name not in made}
    return tuple(read.values()), tuple(v for v in made.values() if v.name in wanted)


@dataclass(frozen=True)
class Graph:
    """Nodes in a topological order between inputs and outputs; `states` are read and appended."""

    name: str
    inputs: tuple[Value, ...]
    states: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def __repr__(self) -> str:
        ends = (", ".join(v.name for v in values) for values in (self.inputs, self.outputs))
        return brief(self, f"{self.name}: {count(len(self.nodes), 'node')}, {' -> '.join(ends)}")

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Value name -> the node that makes it."""
        return {v.name: n for n in self.nodes for v in n.outputs}

    @cached_property
    def place(self) -> Mapping[str, int]:
        """Name of a node -> its index."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """Value name -> the nodes that read it, in order. Unread values have no entry."""
        found: dict[str, dict[str, Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value.name, {})[node.name] = node
        return {name: tuple(nodes.values()) for name, nodes in found.items()}

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the values that must outlive the step: outputs, and the last of each state."""
        last = {v.buffer: v.name for n in self.nodes for v in n.outputs if v.is_state}
        return frozenset({v.name for v in self.outputs} | set(last.values()))

    def readers_before(self, state: Value) -> Iterator[Node]:
        """The nodes that read an older version of a state: making this one overwrites it."""
        name = state.name
        while name != state.buffer:
            name = name[:-1]
            yield from self.users.get(name, ())

    @property
    def weights(self) -> tuple[Value, ...]:
        """Every weight once, in order of first use."""
        return tuple({v.name: v for n in self.nodes for v in n.weights}.values())

    @property
    def tokens(self) -> int:
        """T, the tokens of one step: the leading axis of the first input."""
        return self.inputs[0].shape[0]

    def as_networkx(self) -> nx.DiGraph:
        """The view that passes match and reason on.

        One vertex per node, named like it, with `op` (its kind) and `node`; one per graph input and
        state, with op 'input' or 'state'. Edges carry `values`. Insertion order follows the graph,
        so every walk over the view is deterministic.
        """
        import networkx as nx  # a quarter of a second, which a model compiled before has no need of

        view = nx.DiGraph(name=self.name)
        for value in (*self.inputs, *self.states):
            view.add_node(value.name, op="state" if value.is_state else "input", node=None)
        for node in self.nodes:
            view.add_node(node.name, op=node.kind, node=node)
            for value in node.inputs:
                if value.is_weight:
                    continue
                maker = self.producers.get(value.name)
                source = maker.name if maker else value.name
                if view.has_edge(source, node.name):
                    view.edges[source, node.name]["values"] += (value,)
                else:
                    view.add_edge(source, node.name, values=(value,))
        return view

    def replace_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph around other nodes."""
        return replace(self, nodes=tuple(nodes))

    def walk(self) -> Iterator[Node]:
        """Every plain node, bodies opened, in order."""
        for node in self.nodes:
            yield from node.ops

    def unfused(self) -> Graph:
        """The graph with every fused node opened again."""
        return self.replace_nodes(self.walk())

    def __str__(self) -> str:
        lines = [f"graph {self.name}({_typed(self.inputs)}) {{"]
        lines += [f"  state {v.name}: {v.type}" for v in self.states]
        for node in self.nodes:
            lines += _lines(node, "  ")
        lines += [f"  return {', '.join(v.name for v in self.outputs)}", "}"]
        return "\n".join(lines) + "\n"

    def _repr_svg_(self) -> str:
        """What a notebook shows. Drawing stands above the graph, which knows its name alone."""
        drawn: str = import_module("fusec.pictures.svg").to_svg(self)
        return drawn


def _typed(values: Iterable[Value]) -> str:
    return ", ".join(f"{v.name}: {v.type}" for v in values)


def _lines(node: Node, indent: str) -> list[str]:
    """A node as it is printed; a fused one with its body."""
    operands = ", ".join(f"{v.name}: {v.type}" if v.is_weight else v.name for v in node.inputs)
    if node.op == "fused":
        head = f"{indent}{_typed(node.outputs)} = fused {node.kind}({operands}) {{"
        inner = [line for n in node.body for line in _lines(n, indent + "  ")]
        return [head, *inner, indent + "}"]
    printed = (f"{k}={v!r}" if isinstance(v, float) else f"{k}={v}" for k, v in node.attrs)
    suffix = f" {{{', '.join(printed)}}}" if node.attrs else ""
    return [f"{indent}{_typed(node.outputs)} = {node.op}({operands}){suffix}"]
