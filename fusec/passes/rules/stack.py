"""Matrices that read the same vector become one taller matrix.

%q = matvec(%n, @wq)
%k = matvec(%n, @wk)               =>     %q, %k = fused matvec(%n, @wq, @wk)
"""

from fusec.ir.graph import Graph, Node
from fusec.ir.ops import op
from fusec.passes.rule import Rule, pattern


def _different_vectors(graph: Graph, match: tuple[Node, ...]) -> str | None:
    rows = [n for node in match for n in node.ops if op(n.op).role == "rows"]
    vectors = sorted({n.inputs[0].name for n in rows})
    return f"different vectors: {' and '.join(vectors)}" if len(vectors) > 1 else None


def stack() -> Rule:
    """rows & rows."""
    return Rule(
        "rows & rows => rows of one taller matrix",
        pattern("x -> a, x -> b", context="x", a="rows", b="rows"),
        refuse=_different_vectors,
        named="stack",
        about=__doc__,
    )
