"""Gate and up projection and SwiGLU in one pass over the input: row i of both, then the product.

%g, %u = fused norm_matvec(%x, ...)
%h = fused swiglu(%g, %u)          =>     %h = fused norm_swiglu(%x, ...)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "norm_matvec -> swiglu => norm_swiglu",
    pattern("products -> act", products="norm_matvec", act="swiglu"),
)
