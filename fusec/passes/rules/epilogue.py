"""Element-wise work is done where a row's dot product ends.

%y = matvec(%x, @w)
%z = add(%r, %y)                   =>     %z = fused matvec_add(%x, @w, %r)

A rotation turns pairs of elements, so a warp makes both rows of a pair. A fold (the best logit of a
block) reads what others read too, so the product is `kept`.
"""

from fusec.passes.rule import Rule, pattern


def epilogue(name: str, work: str, kept: bool = False) -> Rule:
    """rows -> one of the roles in `work`."""
    return Rule(
        f"rows -> {work.replace(' ', ' | ')} => rows{' & their fold' if kept else ''}",
        pattern("product -> work", kept="product" if kept else "", product="rows", work=work),
        named=name,
    )
