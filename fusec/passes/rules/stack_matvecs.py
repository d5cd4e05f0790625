"""Matrices that read the same vector become one taller matrix.

%q = matvec(%n, @wq)
%k = matvec(%n, @wk)               =>     %q, %k = fused matvecs(%n, @wq, @wk)
"""

from fusec.ir.graph import Graph, Node
from fusec.passes.rule import Rule, pattern


def _different_vectors(graph: Graph, match: tuple[Node, ...]) -> str | None:
    vectors = sorted({n.inputs[0].name for node in match for n in node.ops})
    return f"different vectors: {' and '.join(vectors)}" if len(vectors) > 1 else None


RULE = Rule(
    "matvec & matvec => matvecs",
    pattern("x -> a, x -> b", context="x", a="matvec matvecs", b="matvec"),
    refuse=_different_vectors,
)
