"""Element-wise ops in a row become one kernel, whose intermediate values stay in registers.

%s = silu(%gate)
%h = mul(%s, %up)                  =>     %h = fused silu_mul(%gate, %up)

The same holds for a rotation in front of the cache it is written to, and a norm in front of both.

Two of which each reads a product of its own stay apart: both can be epilogues.
"""

from fusec.ir.graph import Graph, Node
from fusec.ir.ops import role_of
from fusec.passes.rule import Rule, pattern


def _two_products(graph: Graph, match: tuple[Node, ...]) -> str | None:
    first, then = (sorted(_products(graph, node)) for node in match)
    if not first or not then or set(first) & set(then):
        return None
    return f"two epilogues: one of {first[0]}, one of {then[0]}"


def _products(graph: Graph, node: Node) -> set[str]:
    """Nodes that make rows, among those that make what a node reads."""
    makers = (graph.producers.get(value.name) for value in node.inputs)
    return {maker.name for maker in makers if maker is not None and role_of(maker) == "rows"}


def chain(name: str, first: str, then: str, kept: bool = False) -> Rule:
    """One of the roles `first` -> one of the roles `then`. `kept`: the first may have others."""
    return Rule(
        f"{first.replace(' ', ' | ')} -> {then.replace(' ', ' | ')} => the latter",
        pattern("a -> b", kept="a" if kept else "", a=first, b=then),
        refuse=_two_products,
        named=name,
        about=__doc__,
    )
