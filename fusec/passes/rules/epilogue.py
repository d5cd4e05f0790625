"""Element-wise work on a product is done where a row's dot product ends: its epilogue.

%y = matvec(%x, @w)
%z = add(%r, %y)                   =>     %z = fused matvec_add(%x, @w, %r)

A rotation turns pairs of elements, so a warp makes both rows of a pair. A fold (a thread block's
best logit) reads a product that others read too, so there the product is `kept`.
"""

from fusec.passes.rule import Rule, pattern


def epilogue(name: str, work: str, kept: bool = False) -> Rule:
    """rows -> one of the roles in `work`."""
    return Rule(
        f"rows -> {work.replace(' ', ' | ')} => rows{' & their fold' if kept else ''}",
        pattern("product -> work", kept="product" if kept else "", product="rows", work=work),
        named=name,
        about=__doc__,
    )
