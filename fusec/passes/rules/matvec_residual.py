"""The residual is added where the row's dot product ends.

%y = matvec(%x, @w)
%z = add(%r, %y)                   =>     %z = fused matvec_residual(%x, @w, %r)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "matvec -> add => matvec_residual", pattern("product -> sum", product="matvec", sum="add")
)
