"""A fusion as data: an equation, a small pattern graph, and the reasons not to apply it.

A pattern is a networkx graph over parts. Each part has `ops`, what it takes: roles of the op table
(`rows`, `element`, ...), kinds of node (`rms_norm`), or nothing for any node. `merged` says whether
the match takes the node in or only looks at it. An edge means "reads a value of". Patterns are
written as text: `pattern("product -> work", product="rows", work="element")`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

from fusec.arguments import mistaken
from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node
from fusec.ir.op import ROLES
from fusec.ir.ops import OPS, kind_of
from fusec.ir.target import Target
from fusec.passes.legal import why_illegal, why_slower
from fusec.passes.match import Views, connected_order, occurrences
from fusec.writer import brief, count

Refuse = Callable[[Graph, tuple[Node, ...]], str | None]

_views = Views()


def pattern(edges: str, context: str = "", kept: str = "", **ops: str) -> nx.DiGraph:
    """Build a pattern: `edges` like "x -> a, x -> b"; parts in `context` are matched, not merged.

    Keywords give what each part takes, separated by blanks: kinds of node, roles of the op table,
    or `node` for any computed value. A part without a keyword takes anything. What a part in
    `kept` makes may have other readers, for whom the merged node writes it.
    Raises FusecError for edges that cannot be read or are not connected, and for unknown parts.
    """
    if not isinstance(edges, str):
        raise mistaken("pattern", "edges as text, such as 'norm -> product'", edges)
    graph = nx.DiGraph()
    for edge in edges.split(","):
        ends = [part.strip() for part in edge.split("->")]
        if len(ends) != 2 or not all(end.isidentifier() for end in ends) or ends[0] == ends[1]:
            raise FusecError(
                f"pattern: expected edges like 'norm -> product, product -> sum', found "
                f"'{edge.strip() or edges}'"
            )
        graph.add_edge(*ends)
    named = {*context.split(), *kept.split(), *ops}
    if unknown := sorted(named - set(graph)):
        raise FusecError(
            f"pattern '{edges}': no part '{unknown[0]}': it has {', '.join(graph.nodes)}"
        )
    for part, data in graph.nodes.items():
        data["ops"] = frozenset(ops.get(part, "").split())
        data["merged"] = part not in context.split()
        data["kept"] = part in kept.split()
    if not any(data["merged"] for data in graph.nodes.values()):
        raise FusecError(f"pattern '{edges}': every part is context, expected one to merge")
    if len(connected_order(graph)) != len(graph):
        raise FusecError(f"pattern '{edges}': expected connected parts")
    if not nx.is_directed_acyclic_graph(graph):
        raise FusecError(f"pattern '{edges}': its edges make a cycle")
    return graph


@dataclass(frozen=True)
class Rule:
    """`equation` reads "what -> was => what it becomes".

    Its left side has a word, or words with `|` between them, for each part of the pattern that is
    merged, with `->` or `&` between; it may have those of the context as well.
    The right side is the kind of the new nodes. Where `named` is given, kinds are made of the ops
    that nodes hold instead (`fusec.ir.ops.kind_of`), and `named` is how `--disable` and the pass
    list call the rule, as they otherwise do by the kind. `about` may say more; its first sentence
    is what `fusec list rules` prints where a level gives no reason of its own.
    Raises FusecError for an equation of another form or of other parts than the pattern, and for a
    pattern that `pattern` did not make.
    """

    equation: str
    pattern: nx.DiGraph
    refuse: Refuse | None = None
    named: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.equation, str):
            raise mistaken("rule", "an equation as text", self.equation)
        left, arrow, right = (text.strip() for text in self.equation.partition("=>"))
        if not left or not arrow or not right or not (self.named or right.isidentifier()):
            raise FusecError(
                f"rule '{self.equation}': expected an equation like "
                f"'rms_norm -> matvec => norm_matvec', its last word a name"
            )
        parts = dict(self.pattern.nodes) if isinstance(self.pattern, nx.DiGraph) else {}
        if not parts or any({"ops", "merged", "kept"} - part.keys() for part in parts.values()):
            raise FusecError(
                f"rule '{self.equation}': expected a pattern, as pattern('norm -> product', "
                f"norm='rms_norm', product='matvec') makes it"
            )
        named = [text.strip() for text in re.split("->|&", left)]
        merged = [name for name, part in parts.items() if part["merged"]]
        if not all(named) or len(named) not in (len(merged), len(parts)):
            raise FusecError(
                f"rule '{self.equation}': expected {count(len(merged), 'part')} on its left side, "
                f"as the pattern merges {', '.join(merged)}, found '{left}'"
            )

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self.equation}")

    @property
    def kind(self) -> str:
        """The kind of the fused nodes this rule makes; empty if it follows from what they hold."""
        return "" if self.named else self.equation.split("=>")[1].strip()

    @property
    def name(self) -> str:
        """How `--disable` and the pass list call it."""
        return (self.named or self.kind).replace("_", "-")

    def kind_of(self, match: tuple[Node, ...]) -> str:
        """What the match becomes."""
        return self.kind or kind_of(match)

    def check(self, made: Iterable[str] = ()) -> None:
        """Raise FusecError for a pattern that names what no node is.

        Known are ops, roles, kinds made of ops' labels, and the kinds `made` by other rules.
        """
        known = {*OPS, *ROLES, "node", "input", "state", *made, self.kind} - {""}
        labels = "|".join(sorted({re.escape(entry.short) for entry in OPS.values()}))
        derived = re.compile(f"(?:{labels})(?:_(?:{labels}))*")
        for _, part in self.pattern.nodes.items():
            for wanted in sorted(part["ops"] - known):
                if not derived.fullmatch(wanted):
                    raise FusecError(
                        f"rule '{self.equation}': unknown kind of node '{wanted}': known are "
                        f"{', '.join(sorted(known))}, and what is made of ops, such as norm_matvec"
                    )

    def matches(self, graph: Graph) -> Iterator[tuple[tuple[Node, ...], tuple[Node, ...]]]:
        """(nodes to merge in graph order, those of them that may have other readers).

        Ordered by their last node.
        """
        place, parts = graph.place, self.pattern.nodes
        found: dict[tuple[str, ...], frozenset[str]] = {}
        for match in occurrences(_views.of(graph), self.pattern):
            merged = sorted(
                (n for p, n in match.items() if parts[p]["merged"]), key=place.__getitem__
            )
            kept = frozenset(n for p, n in match.items() if parts[p]["kept"])
            found.setdefault(tuple(merged), kept)
        for names in sorted(found, key=lambda m: [place[n] for n in reversed(m)]):
            nodes = tuple(graph.producers[n] for n in names)
            yield nodes, tuple(n for n in nodes if n.name in found[names])

    def why_not(
        self, graph: Graph, match: tuple[Node, ...], kept: tuple[Node, ...], target: Target
    ) -> str | None:
        """The reason this match must stay as it is, or None if it may be merged."""
        return (
            why_illegal(graph, match, kept, target)
            or (self.refuse(graph, match) if self.refuse else None)
            or why_slower(graph, match, target)
        )
