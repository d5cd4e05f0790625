"""A fusion as data: an equation, a small pattern graph, and the reasons not to apply it.

A pattern is a networkx graph over roles. Each role has `ops`, the kinds of node it matches (empty:
any), and `merged`, whether the match takes the node in or only looks at it. An edge means "reads
a value of". Patterns are written as text: `pattern("norm -> product", norm="rms_norm", ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node, Value, outside
from fusec.ir.ops import op
from fusec.ir.region import NotOneKernel, analyse
from fusec.ir.target import Target
from fusec.passes.cost import ERROR, launch_us

Refuse = Callable[[Graph, tuple[Node, ...]], str | None]


def pattern(edges: str, context: str = "", kept: str = "", **ops: str) -> nx.DiGraph:
    """Build a pattern: `edges` like "x -> a, x -> b"; roles in `context` are matched, not merged.

    Keywords give each role's kinds, separated by blanks; a role without them matches any node.
    What a role in `kept` makes may have other readers, for whom the merged node writes it.
    Raises FusecError for edges of another form, and for a role that no edge has.
    """
    graph = nx.DiGraph()
    for edge in edges.split(","):
        roles = [role.strip() for role in edge.split("->")]
        if len(roles) != 2 or not all(role.isidentifier() for role in roles):
            raise FusecError(
                f"pattern: expected edges like 'norm -> product, product -> sum', found '{edges}'"
            )
        graph.add_edge(*roles)
    for role in (*context.split(), *kept.split(), *ops):
        if role not in graph:
            raise FusecError(f"pattern '{edges}': no role '{role}': it has {', '.join(graph)}")
    for role, data in graph.nodes.items():
        data["ops"] = frozenset(ops.get(role, "").split())
        data["merged"] = role not in context.split()
        data["kept"] = role in kept.split()
    return graph


@dataclass(frozen=True)
class Rule:
    """`equation` reads "what -> was => what it becomes"; its right side is the new node's kind.

    Raises FusecError for an equation of another form, and a pattern that `pattern` did not make.
    """

    equation: str
    pattern: nx.DiGraph
    refuse: Refuse | None = None

    def __post_init__(self) -> None:
        left, arrow, kind = (part.strip() for part in self.equation.partition("=>"))
        if not left or not arrow or not kind.isidentifier():
            raise FusecError(
                f"rule '{self.equation}': expected an equation like "
                f"'rms_norm -> matvec => norm_matvec', its last word a name"
            )
        roles = self.pattern.nodes.values() if isinstance(self.pattern, nx.DiGraph) else ()
        if not roles or any({"ops", "merged", "kept"} - role.keys() for role in roles):
            raise FusecError(
                f"rule '{self.equation}': expected a pattern, as pattern('norm -> product', "
                f"norm='rms_norm', product='matvec') makes it"
            )

    def check_kinds(self, known: Iterable[str]) -> None:
        """Raise FusecError if the pattern has a kind of node that nobody makes."""
        kinds = {kind for _, role in self.pattern.nodes.items() for kind in role["ops"]}
        if unknown := sorted(kinds - {*known}):
            raise FusecError(
                f"rule '{self.equation}': unknown kind of node '{unknown[0]}': "
                f"known are {', '.join(sorted(known))}"
            )

    @property
    def kind(self) -> str:
        """The kind of the fused nodes this rule makes."""
        return self.equation.split("=>")[1].strip()

    @property
    def name(self) -> str:
        """How `--disable` and the pass list call it."""
        return self.kind.replace("_", "-")

    @property
    def _kept(self) -> frozenset[str]:
        """Kinds of node whose values may have readers outside the match."""
        return frozenset[str]().union(
            *(d["ops"] for _, d in self.pattern.nodes.items() if d["kept"])
        )

    def matches(self, graph: Graph) -> Iterator[tuple[Node, ...]]:
        """Sets of nodes to merge, each in graph order, ordered by their last node."""
        view = graph.as_networkx()
        place = {node.name: i for i, node in enumerate(graph.nodes)}
        matcher = nx.isomorphism.DiGraphMatcher(view, self.pattern, node_match=_same_op)
        found: dict[tuple[str, ...], None] = {}
        for match in matcher.subgraph_monomorphisms_iter():
            merged = (name for name, role in match.items() if self.pattern.nodes[role]["merged"])
            found[tuple(sorted(merged, key=place.__getitem__))] = None
        for names in sorted(found, key=lambda m: [place[n] for n in reversed(m)]):
            yield tuple(graph.producers[n] for n in names)

    def why_not(self, graph: Graph, match: tuple[Node, ...], target: Target) -> str | None:
        """The reason this match must stay as it is, or None if it may be merged."""
        return (
            _different_tokens(match)
            or _second_user(graph, [n for n in match if n.kind not in self._kept], match)
            or _cycle(graph, match)
            or _unsupported_format(match, target)
            or _not_one_kernel(graph, match, target)
            or (self.refuse(graph, match) if self.refuse else None)
            or _slower(graph, match, target)
        )


def merge(graph: Graph, match: tuple[Node, ...], kind: str) -> Graph:
    """Replace the matched nodes by one fused node, moving what depends on them behind it."""
    fused = fuse(graph, match, kind)
    names = {n.name for n in match}
    place = [i for i, n in enumerate(graph.nodes) if n.name in names]
    window = graph.nodes[place[0] : place[-1] + 1]
    needed = {v.name for n in match for v in n.inputs}
    before: list[Node] = []
    for node in reversed(window):
        if node.name not in names and any(v.name in needed for v in node.outputs):
            needed |= {v.name for v in node.inputs}
            before.append(node)
    kept = {n.name for n in before} | names
    after = (n for n in window if n.name not in kept)
    head, tail = graph.nodes[: place[0]], graph.nodes[place[-1] + 1 :]
    return graph.replace_nodes((*head, *reversed(before), fused, *after, *tail))


def fuse(graph: Graph, match: tuple[Node, ...], kind: str) -> Node:
    """The fused node: bodies concatenated, inputs and outputs as seen from outside."""
    body = tuple(plain for node in match for plain in node.ops)
    names = {n.name for n in match}
    inputs, outputs = outside(body, {v.name for n in match for v in _visible(graph, n, names)})
    return Node("fused", inputs, outputs, (("kind", kind),), body)


def _visible(graph: Graph, node: Node, names: set[str]) -> list[Value]:
    """Outputs of `node` that are not only read by `names`. One that nobody reads stays visible."""

    def hidden(value: Value) -> bool:
        users = graph.users.get(value.name, ())
        return (
            value.name not in graph.needed and bool(users) and all(u.name in names for u in users)
        )

    return [v for v in node.outputs if not hidden(v)]


def _same_op(vertex: dict[str, object], role: dict[str, frozenset[str]]) -> bool:
    return (vertex["op"] in role["ops"] or not role["ops"]) and (
        vertex["node"] is not None or not role["merged"]
    )


def _different_tokens(match: tuple[Node, ...]) -> str | None:
    tokens = {
        v.shape[0]
        for n in match
        for v in (*n.inputs, *n.outputs)
        if not (v.is_weight or v.is_state)
    }
    if len(tokens) > 1:
        return f"a different T: {', '.join(map(str, sorted(tokens)))} tokens a step"
    return None


def _second_user(graph: Graph, nodes: Iterable[Node], match: tuple[Node, ...]) -> str | None:
    names = {n.name for n in match}
    for node in nodes:
        for value in node.outputs:
            users = graph.users.get(value.name, ())
            if value.is_state or not any(u.name in names for u in users):
                continue
            others = [u.name for u in users if u.name not in names]
            if others:
                return f"a second user: {value.name} is also read by {others[0]}"
            if value.name in graph.needed:
                return f"a second user: {value.name} is an output of the graph"
    return None


def _cycle(graph: Graph, match: tuple[Node, ...]) -> str | None:
    """A path that leaves the match and comes back would make the merged node wait for itself."""
    names = {n.name for n in match}
    place = {n.name: i for i, n in enumerate(graph.nodes)}
    last = max(place[n] for n in names)
    stack = [(u, u) for n in match for v in n.outputs for u in graph.users.get(v.name, ())]
    seen = set()
    while stack:
        node, left = stack.pop()
        if node.name in names:
            if left.name not in names:
                return f"a cycle through an outside path: {left.name} leads back to {node.name}"
            continue
        if node.name in seen or place[node.name] > last:
            continue
        seen.add(node.name)
        stack += [(u, left) for v in node.outputs for u in graph.users.get(v.name, ())]
    return None


def _unsupported_format(match: tuple[Node, ...], target: Target) -> str | None:
    for node in match:
        for weight in node.weights:
            if weight.dtype not in target.formats:
                return f"an unsupported quant type: {weight.name} is {weight.dtype}"
    return None


def _slower(graph: Graph, match: tuple[Node, ...], target: Target) -> str | None:
    """A prologue made anew in every block may cost more than the launch that it saves."""
    if target.gpu is None:
        return None
    apart = sum(launch_us(node, target.gpu).total for node in match)
    merged = launch_us(fuse(graph, match, "region"), target.gpu).total
    if merged <= (1 + ERROR) * apart:
        return None
    return (
        f"slower: {merged:.2f} us merged, {apart:.2f} us apart are predicted on {target.gpu.name}"
    )


def _not_one_kernel(graph: Graph, match: tuple[Node, ...], target: Target) -> str | None:
    region = fuse(graph, match, "region").region
    try:
        shape = analyse(region)
    except NotOneKernel as reason:
        return f"not one kernel: {reason}"
    if target.tiles and (apart := target.tiles.why_not(shape)):
        return f"not one kernel: {apart}"
    needed = shape.prologue_bytes
    if any(op(n.op).role == "rows" for n in region.nodes) and needed > target.block_bytes:
        return (
            f"shared memory too small: the prologue takes {needed:,} bytes, "
            f"a block on {target.name} has {target.block_bytes:,}"
        )
    return None
