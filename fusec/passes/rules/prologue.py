"""A vector that is cheap to make becomes the prologue of its reader: every thread block makes it.

%n = rms_norm(%x, @g)
%y = matvec(%n, @w)                =>     %y = fused norm_matvec(%x, @g, @w)

A vector that is `kept` may have other readers: the merged node writes it as well, its elements
spread over the blocks. Examples are the embedding, a sum of partial sums, and a residual behind a
norm.
"""

from fusec.passes.rule import Rule, pattern


def prologue(name: str, made: str, kept: bool = False) -> Rule:
    """One of the roles `made` -> rows."""
    return Rule(
        f"{made.replace(' ', ' | ')} -> rows => rows{' & what they read' if kept else ''}",
        pattern("made -> product", kept="made" if kept else "", made=made, product="rows parts"),
        named=name,
        about=__doc__,
    )
