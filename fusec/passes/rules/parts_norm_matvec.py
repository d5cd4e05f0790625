"""The parts of a product are added up, with the residual, by every block that reads the sum.

%z = add_parts(%z.parts, %r)
%h = fused norm_swiglu(%z, ...)    =>     %z, %h = fused parts_norm_matvec(%z.parts, %r, ...)

What comes behind reads %z as well, as its residual, so it is still written, by one block.
"""

from fusec.passes.rule import Rule, pattern

READERS = ("norm_matvec", "norm_swiglu", "norm_swiglu_parts", "norm_qkv_rope")

RULE = Rule(
    "add_parts -> norm_matvec => parts_norm_matvec",
    pattern("sum -> products", kept="sum", sum="add_parts", products=" ".join(READERS)),
)
