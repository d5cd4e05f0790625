"""A vector that is cheap to make is made by every block of the kernel that reads it.

%n = rms_norm(%x, @g)
%y = matvec(%n, @w)                =>     %y = fused norm_matvec(%x, @g, @w)

What is `kept` may have other readers: the merged node writes it as well, its elements spread over
the blocks. The embedding is such, a sum of partial products, and a residual behind a norm.
"""

from fusec.passes.rule import Rule, pattern


def prologue(name: str, made: str, kept: bool = False) -> Rule:
    """One of the roles `made` -> rows."""
    return Rule(
        f"{made.replace(' ', ' | ')} -> rows => rows{' & what they read' if kept else ''}",
        pattern("made -> product", kept="made" if kept else "", made=made, product="rows parts"),
        named=name,
    )
