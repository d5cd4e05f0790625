"""Two small launches of one kind that belong to the same neighbour become one.

%qr = rope(%q, %pos)
%kr = rope(%k, %pos)               =>     %qr, %kr = fused rope(%q, %pos, %k)

The neighbour is the node that makes what both read, or the one that reads what both make. It is
what keeps layers apart: all layers read %pos, but only two rotations of one layer read the same
projection, and only two stores of one layer are read by the same attention.
"""

from fusec.passes.rule import Rule, pattern


def siblings(name: str, role: str, neighbour: str) -> Rule:
    """Two nodes whose roles are among those in `role`, and their `neighbour`.

    It is the `maker` of what they read, or the `reader` of both.
    """
    edges = {"maker": "n -> a, n -> b", "reader": "a -> n, b -> n"}[neighbour]
    roles = role.replace(" ", " | ")
    return Rule(
        f"{roles} & {roles} => {roles}",
        pattern(edges, context="n", n="node", a=role, b=role),
        named=name,
        about=__doc__,
    )
